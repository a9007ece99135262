// The documents that are open in this tab, and what happens to their unsaved changes.

import {copyPath, fingerprint, pause, sameContent, unchanged} from './words.js';

/** Return the content of a document as text. */
function textOf(context) {
  return isNotebook(context) ? JSON.stringify(context.model.toJSON()) : context.model.toString();
}

/** Return a connection to the user's other tabs. A browser whose storage is off may not offer any. */
function channel(name) {
  try {
    return new BroadcastChannel(name);
  } catch {
    return {postMessage: () => {}};
  }
}

function isNotebook(context) {
  return context.contentsModel?.type === 'notebook';
}

export class Documents {
  /**
   * @param {object} registry JupyterLab's document registry.
   * @param {object} manager JupyterLab's document manager.
   * @param {object} services JupyterLab's service manager.
   * @param {import('./drafts.js').Drafts} drafts Where unsaved content is kept.
   * @param {() => boolean} refuse Tells the user that nothing can be saved now, if this is so, and returns whether it is.
   */
  constructor(registry, manager, services, drafts, refuse) {
    this.manager = manager;
    this.services = services;
    this.drafts = drafts;
    this.refuse = refuse;
    this.contexts = new Map(); // context: its writer of drafts
    this.kernels = new Map(); // session context: its kernel when the connection was lost
    // After this tab has saved, the user's other tabs read the file again, unless it was changed there too.
    this.tabs = channel(`hpchub ${drafts.owner}`);
    this.tabs.onmessage = async ({data}) => {
      for (const [context, writer] of this.contexts) {
        if (context.path === data.saved && context.isReady && !writer.hasChanges) await context.revert();
      }
    };
    const extension = {createNew: (widget, context) => this._follow(context)};
    for (const factory of registry.widgetFactories()) registry.addWidgetExtension(factory.name, extension);
    registry.changed.connect((_, change) => {
      if (change.type === 'widgetFactory' && change.change === 'added' && change.name) {
        registry.addWidgetExtension(change.name, extension);
      }
    });
    // The browser may end a hidden tab without notice.
    document.addEventListener('visibilitychange', () => {
      if (document.hidden) for (const writer of this.contexts.values()) writer.flush();
    });
    window.addEventListener('pagehide', () => {
      for (const writer of this.contexts.values()) writer.flush();
    });
  }

  _follow(context) {
    if (this.contexts.has(context)) return;
    const writer = new Writer(context, this.drafts);
    this.contexts.set(context, writer);
    // Without a connection, saving would open a dialog for each attempt, also for JupyterLab's own at intervals.
    const save = context.save.bind(context);
    context.save = async () => {
      if (!this.refuse()) return save();
      // JupyterLab handles an error of this name as if the user had cancelled.
      throw Object.assign(new Error('There is no connection to the session'), {name: 'ModalCancelError'});
    };
    context.disposed.connect(() => {
      this.contexts.delete(context);
      writer.dispose();
    });
  }

  get paths() {
    return [...this.contexts.keys()].map(context => context.path);
  }

  /** Let the user download every document with unsaved changes. */
  download() {
    for (const [context, writer] of this.contexts) {
      if (context.isDisposed || !context.isReady || !writer.hasChanges) continue;
      const link = document.createElement('a');
      link.href = URL.createObjectURL(new Blob([textOf(context)], {type: 'application/octet-stream'}));
      link.download = context.path.slice(context.path.lastIndexOf('/') + 1);
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
    }
  }

  /** Keep a draft of every document with unsaved changes. */
  async keep() {
    await Promise.all([...this.contexts.values()].map(writer => writer.flush()));
  }

  /**
   * Save every document with unsaved changes. If a file has changed on disk, JupyterLab asks the user what to do.
   *
   * @returns {Promise<{saved: number, failed: string[]}>} The number of saved documents, and the names of the others.
   */
  async save() {
    let saved = 0;
    const failed = [];
    for (const [context, writer] of [...this.contexts]) {
      if (context.isDisposed || !context.isReady || !writer.hasChanges || context.canSave === false) continue;
      try {
        await context.save();
        saved += 1;
        this.tabs.postMessage({saved: context.path});
      } catch (error) {
        console.warn(`${context.path} is not saved`, error);
        failed.push(context.path);
      }
    }
    return {saved, failed};
  }

  /**
   * Remember the kernels of the documents. JupyterLab forgets a kernel as soon as it finds that the next session's server
   * does not have it, so this method is called when the connection is lost, and again at once when it is back.
   */
  rememberKernels() {
    for (const {isDisposed, sessionContext} of this.contexts.keys()) {
      const kernel = sessionContext?.session?.kernel;
      if (!isDisposed && kernel) this.kernels.set(sessionContext, kernel);
    }
  }

  /** Connect to what still runs, and start a new kernel for each document whose kernel is gone. */
  async reviveKernels() {
    const wanted = [...this.kernels];
    this.kernels.clear();
    const {kernels, sessions, terminals, kernelspecs} = this.services;
    for (const manager of [kernels, sessions, terminals, kernelspecs]) {
      await (manager.refreshRunning ?? manager.refreshSpecs)?.call(manager).catch(error => console.warn(error));
    }
    const running = new Set([...kernels.running()].map(each => each.id));
    for (const [context, {id, name}] of wanted) {
      if (context.isDisposed) continue;
      // The user may have chosen another kernel in the meantime.
      const kernel = context.session?.kernel;
      if (kernel && kernel.id !== id) continue;
      try {
        if (!kernel || !running.has(id)) await context.changeKernel({name});
        else if (kernel.connectionStatus !== 'connected') await kernel.reconnect();
      } catch (error) {
        console.warn(`The kernel of ${context.path} does not start`, error);
      }
    }
  }

  /**
   * Save a draft of an earlier tab: in its file if the file is still the same, otherwise in a new file. Open that file.
   *
   * @returns {Promise<string>} The path of the file that now has the changes.
   */
  async restore(draft) {
    const model = {
      type: draft.type,
      format: draft.format,
      content: draft.format === 'json' ? JSON.parse(draft.text) : draft.text,
    };
    const file = await this._file(draft);
    const [open, writer] = [...this.contexts].find(([context]) => context.path === draft.path) ?? [];
    let path = draft.path;
    if (!writer?.hasChanges && unchanged(draft, file)) {
      await this.services.contents.save(path, model);
      await open?.revert();
    } else {
      path = await this._copy(draft, model);
    }
    this.manager.openOrReveal(path);
    await this.drafts.remove(draft.path, draft.tab);
    return path;
  }

  /** Return those drafts that have something that their files do not have, the latest first, and delete the others. */
  async worthRestoring(drafts) {
    const found = [];
    for (const draft of drafts.sort((one, other) => other.at - one.at)) {
      if (sameContent(draft, await this._file(draft))) await this.drafts.remove(draft.path, draft.tab);
      else found.push(draft);
    }
    return found;
  }

  /** Return a draft's file, or null if there is none. */
  async _file({path, type, format}) {
    return this.services.contents.get(path, {type, format, content: true, hash: true}).catch(() => null);
  }

  /** Write a draft into a new file beside its own, or into the top directory if that is not possible. */
  async _copy(draft, model) {
    const {contents} = this.services;
    const path = copyPath(draft.path, draft.at);
    try {
      return (await contents.save(path, model)).path;
    } catch (error) {
      if (!path.includes('/')) throw error;
      return (await contents.save(path.slice(path.lastIndexOf('/') + 1), model)).path;
    }
  }
}

/** Writes drafts of one document, soon after each change. */
class Writer {
  constructor(context, drafts) {
    this.context = context;
    this.drafts = drafts;
    this.timer = 0;
    this.took = 0;
    this.path = ''; // the path of the draft, or empty if there is none
    this.last = Promise.resolve();
    this.format = 'text';
    this.base = ''; // the fingerprint of the content that is also on disk
    this.changedWhileSaving = false;
    void context.ready.then(() => {
      // Later models of the file do not name its format.
      this.format = context.contentsModel?.format ?? 'text';
      if (!context.isDisposed) this._rebase();
    });
    context.model.contentChanged.connect(() => {
      this.changedWhileSaving = true;
      this._schedule();
    });
    context.fileChanged.connect(() => !context.model.dirty && this._rebase());
    context.saveState.connect((_, state) => {
      if (state === 'started') this.changedWhileSaving = false;
      if (!state.startsWith('completed')) return;
      if (this.changedWhileSaving) {
        // JupyterLab takes the document for saved now, but the file does not have the latest changes.
        this.base = '';
        context.model.dirty = true;
        this._schedule();
      } else {
        this._rebase();
        this._remove();
      }
    });
  }

  _rebase() {
    this.base = this._fingerprint();
  }

  _fingerprint() {
    return fingerprint(isNotebook(this.context) ? 'json' : 'text', textOf(this.context));
  }

  /**
   * Whether the document has changes that are not on disk. JupyterLab also marks a document as changed when it only writes
   * the kernel's language into it.
   */
  get hasChanges() {
    return this.context.model.dirty && this._fingerprint() !== this.base;
  }

  _schedule() {
    if (!this.timer) this.timer = setTimeout(() => this.flush(), pause(this.took));
  }

  /** Keep the document's content now, if it has unsaved changes. */
  flush() {
    clearTimeout(this.timer);
    this.timer = 0;
    const {context} = this;
    if (context.isDisposed || !context.isReady || this.format === 'base64') return this.last;
    const began = performance.now();
    if (!this.hasChanges) return this._remove();
    const {path, contentsModel} = context;
    const draft = {
      path,
      type: contentsModel?.type ?? 'file',
      format: isNotebook(context) ? 'json' : 'text',
      text: textOf(context),
      hash: contentsModel?.hash ?? null,
      modified: contentsModel?.last_modified ?? null,
    };
    this.took = performance.now() - began;
    return this._then(async () => {
      if (this.path && this.path !== path) await this.drafts.remove(this.path);
      this.path = path;
      await this.drafts.put(draft);
    });
  }

  _remove() {
    clearTimeout(this.timer);
    this.timer = 0;
    return this._then(async () => {
      if (this.path) await this.drafts.remove(this.path);
      this.path = '';
    });
  }

  /** Run a step after the former one, so that a late draft cannot come back after its removal. */
  _then(step) {
    this.last = this.last.then(step).catch(error => console.warn(`No draft of ${this.context.path} is kept`, error));
    return this.last;
  }

  /** The user has closed the document, and has saved it or given its changes up. */
  dispose() {
    this._remove();
  }
}
