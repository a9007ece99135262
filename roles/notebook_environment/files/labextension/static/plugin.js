// The plugins of the extension: they keep unsaved work when a session, the connection or the single sign-on ends.

import {Banner} from './banner.js';
import {Connection} from './connection.js';
import {Documents} from './documents.js';
import {Drafts} from './drafts.js';
import {before, connected, found, news, warning} from './words.js';

const TICK = 15_000; // milliseconds between looks at the clock
const ASK = 5 * 60_000; // milliseconds between questions to the hub about the session's end and about notices
const SOON = 30_000; // the shortest time between two such questions

export default (watch, {IConnectionLost, JupyterFrontEnd}, {IDocumentManager}) => [
  {
    id: '@hpchub/lab:unsaved-work',
    description: 'Keeps unsaved work when a session ends, and saves it in the next session.',
    autoStart: true,
    requires: [JupyterFrontEnd.IPaths, IDocumentManager],
    activate: (app, paths, manager) => {
      if (paths.urls.hubPrefix) start(watch, app, paths.urls, manager);
    },
  },
  {
    // This replaces the dialog of @jupyterlab/hub-extension, which opens the start page while the hub may still believe
    // that the session runs.
    id: '@hpchub/lab:connection-lost',
    description: 'Leaves it to unsaved-work to say that the connection is lost.',
    autoStart: true,
    provides: IConnectionLost,
    activate: () => async () => {
      await watch.check?.();
    },
  },
];

function start(watch, app, urls, manager) {
  const banner = new Banner();
  const drafts = new Drafts(urls.base);
  const show = message => banner.show(message, 'warning', [actions[message.action]()]);
  const documents = new Documents(app.docRegistry, manager, app.serviceManager, drafts, () => {
    if (connection.isLost) {
      banner.hide(); // show it again, even if the user has closed it
      show(connection.message);
    }
    return connection.isLost;
  });

  const open = url => window.open(url, '_blank');
  const actions = {
    start: () => ['Start a new session', () => open(connection.startUrl)],
    progress: () => ['Show the progress', () => open(connection.progressUrl)],
    home: () => ['Open my home page', () => open(connection.homeUrl)],
    'sign-in': () => ['Sign in', () => connection.signIn()],
  };
  const connection = new Connection(watch, urls, {
    lost: message => {
      void documents.keep();
      show(message);
    },
    back: async renewed => {
      banner.hide();
      const {saved, failed} = await documents.save();
      if (connection.isLost) return;
      banner.show(connected(renewed, saved, failed), failed.length ? 'warning' : 'info');
      await documents.reviveKernels();
      await end.ask();
    },
  });
  watch.check = () => connection.check();
  const notices = new Banner('top');
  const tell = notice => notices.show(notice, 'warning', notice.action ? [actions[notice.action]()] : []);
  const end = new End(connection, documents, banner, tell);
  // The user may come back to this tab after hours.
  document.addEventListener('visibilitychange', () => end.look());
  window.addEventListener('focus', () => end.look());

  void app.restored.then(async () => {
    await connection.check();
    await end.ask();
    setInterval(() => end.tick(), TICK);
    await offerDrafts(documents, drafts, banner);
  });
}

/** What the hub says about the session: its end, and the drains and announcements that concern it. */
class End {
  constructor(connection, documents, banner, tell) {
    Object.assign(this, {connection, documents, banner, tell});
    this.seen = new Set();
    this.ends = null;
    this.warned = Infinity;
    this.asked = 0;
  }

  async ask() {
    this.asked = Date.now();
    const session = await this.connection.session();
    if (session?.state !== 'running') return;
    if (session.ends !== this.ends && !(Math.abs(session.ends - this.ends) < 60_000)) this.warned = Infinity;
    this.ends = session.ends;
    const notice = news(session.notices, this.seen);
    if (notice) this.tell(notice);
  }

  async look() {
    if (!document.hidden && !this.connection.isLost && Date.now() - this.asked > SOON) await this.ask();
  }

  async tick() {
    if (this.connection.isLost) return;
    if (Date.now() - this.asked > ASK) await this.ask();
    const due = before(this.ends, Date.now(), this.warned);
    if (due.warn) {
      await this.ask(); // somebody may have given the session more time
      const now = Date.now();
      if (before(this.ends, now, this.warned).warn) {
        this.warned = due.warn;
        this.banner.show(warning(this.ends, now), 'warning');
      }
    }
    if (due.save) await this.documents.save();
  }
}

/** Offer the drafts of tabs that were closed, or that crashed, before their documents were saved. */
async function offerDrafts(documents, drafts, banner) {
  let kept = await drafts.orphans().catch(() => []);
  // The classic interface has one page for each document. Such a page offers only its own drafts.
  const page = JSON.parse(document.getElementById('jupyter-config-data')?.textContent || '{}').notebookPage;
  if (page && page !== 'tree') kept = kept.filter(each => documents.paths.includes(each.path));
  kept = await documents.worthRestoring(kept);
  if (!kept.length) return;
  banner.show(found(kept), 'warning', [
    [
      'Restore',
      async () => {
        const lines = [];
        for (const draft of kept) {
          try {
            const path = await documents.restore(draft);
            lines.push(path === draft.path ? path : `${path} (a copy, because ${draft.path} has changed since)`);
          } catch (error) {
            console.warn(error);
            lines.push(`${draft.path}: not restored (${error.message}); this browser still has the changes`);
          }
        }
        banner.show({title: 'Your changes are back', text: `${lines.join('; ')}.`}, 'info');
      },
    ],
    [
      'Delete the changes',
      async () => {
        if (!window.confirm('Delete these changes? You cannot get them back.')) return;
        for (const {path, tab} of kept) await drafts.remove(path, tab);
        banner.hide();
      },
    ],
  ]);
}
