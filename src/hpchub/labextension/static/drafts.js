// Drafts: the unsaved content of documents, in the browser's own storage (IndexedDB).

/** Drafts that nobody has asked for are deleted after this time, in milliseconds. */
const KEEP = 30 * 24 * 3600_000;

/** Return the result of an IndexedDB request. */
function answer(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

/** Return when an IndexedDB transaction is on the disk. If the disk is full, its requests succeed, but it is aborted. */
function written(transaction) {
  return new Promise((resolve, reject) => {
    transaction.oncomplete = () => resolve();
    transaction.onabort = () => reject(transaction.error);
  });
}

export class Drafts {
  /**
   * @param {string} owner The address of the user's server. Drafts of other users are never shown.
   */
  constructor(owner) {
    this.owner = owner;
    this.isReliable = true; // whether the storage has taken what it was given
    this.tab = crypto.randomUUID?.() ?? String(Math.random());
    // The browser releases the lock when this tab is closed or crashes. Other tabs then know that nobody edits the
    // documents any more.
    void navigator.locks?.request(this._lock(this.tab), () => new Promise(() => {})).catch(() => {});
    this.database = new Promise((resolve, reject) => {
      const request = indexedDB.open('hpchub', 1);
      request.onupgradeneeded = () => request.result.createObjectStore('drafts', {keyPath: ['owner', 'tab', 'path']});
      request.onsuccess = () => resolve(request.result);
      request.onerror = () => reject(request.error);
    });
    this.database.catch(error => this._failed(error));
  }

  /** Remember that the browser's storage is full or off. The tab goes on without it. */
  _failed(error) {
    if (this.isReliable) console.info('This browser cannot keep unsaved changes', error);
    this.isReliable = false;
  }

  _lock(tab) {
    return `hpchub-tab-${tab}`;
  }

  async _store(mode) {
    return (await this.database).transaction('drafts', mode).objectStore('drafts');
  }

  /** Keep the content of a document: ``{path, type, format, text, hash, modified}``. No method ever fails. */
  async put(draft) {
    try {
      const store = await this._store('readwrite');
      const done = written(store.transaction);
      store.put({...draft, owner: this.owner, tab: this.tab, at: Date.now()});
      await done;
      this.isReliable = true;
    } catch (error) {
      this._failed(error);
    }
  }

  /** Delete a draft, by default this tab's draft of the path. */
  async remove(path, tab = this.tab) {
    try {
      await answer((await this._store('readwrite')).delete([this.owner, tab, path]));
    } catch (error) {
      this._failed(error);
    }
  }

  /** Return the drafts of tabs that are not open any more, and delete those that are very old. */
  async orphans() {
    try {
      return await this._orphans();
    } catch (error) {
      this._failed(error);
      return [];
    }
  }

  async _orphans() {
    const all = await answer((await this._store('readonly')).getAll());
    const {held = []} = (await navigator.locks?.query()) ?? {};
    const open = new Set(held.map(each => each.name));
    const found = all.filter(each => each.owner === this.owner && !open.has(this._lock(each.tab)));
    const old = found.filter(each => each.at < Date.now() - KEEP);
    for (const each of old) await this.remove(each.path, each.tab);
    return found.filter(each => !old.includes(each));
  }
}
