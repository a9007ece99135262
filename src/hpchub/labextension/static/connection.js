// The connection of this tab to the user's notebook server, which may be replaced by the server of the next session.

import {gettext} from './gettext.js';
import {full, lost, meaning, refused, suspicious, xsrfToken} from './words.js';

const ANSWER = 20_000; // milliseconds that an answer may take
const LOGIN = 15_000; // milliseconds that a login in the background may take
const AGAIN = [3_000, 3_000, 5_000, 5_000, 10_000]; // milliseconds between attempts; the last one is repeated
const HIDDEN = 30_000; // the same in a tab that nobody sees

/** Return this page's XSRF token. The server that has set the cookie accepts it. */
function xsrf() {
  return xsrfToken(document.cookie);
}

/** Wait for some milliseconds. */
function sleep(milliseconds) {
  return new Promise(resolve => setTimeout(resolve, milliseconds));
}

export class Connection {
  /**
   * @param {object} watch The page's requests, see entry.js.
   * @param {{base: string, hubHost?: string, hubPrefix: string, hubUser: string, hubServerName?: string}} urls
   *   JupyterLab's addresses.
   * @param {{lost: (message: object) => void, back: (renewed: boolean) => void}} events What to call when the
   *   connection is lost, or its cause changes, and when it is back.
   * @param {() => boolean} isStored Whether the browser's storage keeps unsaved changes.
   */
  constructor(watch, urls, events, isStored = () => true) {
    this.watch = watch;
    this.isStored = isStored;
    this.events = events;
    this.base = new URL(urls.base, location.href);
    this.hub = new URL(urls.hubPrefix, urls.hubHost || location.href);
    const name = [urls.hubUser, urls.hubServerName].filter(Boolean).map(encodeURIComponent).join('/');
    this.sessionUrl = new URL(`api/hpchub/sessions/${name}`, this.hub);
    this.startUrl = new URL(urls.hubServerName ? `spawn/${name}` : 'spawn', this.hub);
    this.stateUrl = new URL('api/hpchub/session', this.base);
    this.present = false; // whether the user has used this tab since its last request
    this.automatic = false; // whether the tab saves by itself now
    this.progressUrl = new URL(`spawn-pending/${name}`, this.hub);
    this.homeUrl = new URL('home', this.hub);
    this.message = null; // what the tab shows while the connection is lost
    this.started = null; // when the server started; it tells one session's server from the next one's
    this.checking = null;
    this.timer = 0;
    this.attempts = 0;
    this.state = 'ok';
    this.signingIn = false;
    watch.fetch = (input, init) => this._fetch(input, init);
    for (const event of ['pointerdown', 'keydown', 'wheel']) {
      addEventListener(event, () => (this.present = true), {capture: true, passive: true});
    }
    for (const [target, event] of [[document, 'visibilitychange'], [window, 'online'], [window, 'focus']]) {
      target.addEventListener(event, () => this.message && !document.hidden && this.check());
    }
  }

  get isLost() {
    return this.message !== null;
  }

  /** Send a request of the page. If it fails, find out whether the connection is lost, and say so in plain words. */
  async _fetch(input, init) {
    const {href} = new URL(input instanceof Request ? input.url : input, location.href);
    if (!href.startsWith(this.base.href)) return this.watch.send(input, init);
    const request = new Request(input, init);
    // The server learns from JupyterLab's own requests whether somebody uses this tab.
    const present = this.present;
    if (present) request.headers.set('X-Session-Present', '1');
    if (this.automatic) request.headers.set('X-Session-Automatic', '1');
    this.present = false;
    let answer, failure;
    try {
      answer = await this.watch.send(request);
    } catch (error) {
      if (request.signal.aborted) throw error;
      failure = error;
    }
    if (!answer?.ok) this.present ||= present;
    const isIn = path => href.startsWith(new URL(path, this.base).href);
    const contents = isIn('api/contents');
    if (answer?.status === 500 && contents && request.method !== 'GET') {
      const explained = await this._explained(answer);
      if (explained) return explained;
    }
    if (answer && !suspicious(answer.status)) return answer;
    // 403 and 404 are everyday answers about files and kernels. Only ask again for what a user waits for.
    const everyday = answer?.status === 404 && !this.isLost;
    if (everyday) return answer;
    const isNew = await this.check();
    if (isNew && request.method === 'GET') {
      // Repeat nothing but a read with the new login: a file may have changed in the meantime.
      const headers = new Headers(request.headers);
      headers.delete('Authorization');
      if (xsrf()) headers.set('X-XSRFToken', xsrf());
      return this.watch.send(new Request(request.url, {headers, cache: 'no-store', credentials: 'same-origin'}));
    }
    if (this.isLost && contents) {
      const body = JSON.stringify({message: refused(this.message), reason: null});
      return new Response(body, {status: answer?.status || 503, headers: {'Content-Type': 'application/json'}});
    }
    // JupyterLab takes a kernel for dead whose state it may not read. After this answer, it asks again.
    const isAboutKernel = isIn('api/kernels/') && new URL(href).pathname.split('/').at(-2) === 'kernels';
    if (this.isLost && isAboutKernel) return new Response(null, {status: 503});
    if (failure) throw failure;
    return answer;
  }

  /** Return an answer that says in plain words why a file was not saved, or null if the cause is not known. */
  async _explained(answer) {
    const error = await answer.clone().json().catch(() => ({}));
    const message = full(String(error?.message ?? ''), this.isStored());
    if (!message) return null;
    const body = JSON.stringify({message, reason: null});
    return new Response(body, {status: 507, headers: {'Content-Type': 'application/json'}});
  }

  /**
   * Find out whether the server answers, and act on it. Several calls at the same time share one check.
   *
   * @returns {Promise<boolean>} Whether this tab now has a new login.
   */
  check() {
    this.checking ??= this._check().finally(() => {
      this.checking = null;
    });
    return this.checking;
  }

  async _check() {
    clearTimeout(this.timer);
    let seen = await this._ask();
    let isNew = false;
    if (seen.state === 'login' && this._mayLogin()) {
      await this._renewLogin();
      seen = await this._ask();
      isNew = seen.state === 'ok';
    }
    this.state = seen.state;
    if (seen.state === 'ok') {
      const wasLost = this.isLost;
      const renewed = this.started !== null && seen.started !== this.started;
      this.started = seen.started;
      this.message = null;
      this.attempts = 0;
      if (wasLost || renewed) void this.events.back(renewed);
      return isNew;
    }
    const message = lost(seen.state, await this.session(), undefined, this.isStored());
    this.message = message;
    this.events.lost(message);
    const delay = document.hidden ? HIDDEN : AGAIN[Math.min(this.attempts++, AGAIN.length - 1)];
    this.timer = setTimeout(() => this.check(), delay);
    return false;
  }

  /**
   * Return whether the tab may log in without asking the user. It must not do so after the user has signed off: the
   * identity provider may still know the user. If the hub has the same host name, Apache has checked the sign-on. Otherwise
   * the tab logs in only to a server that follows one that did not answer any more.
   */
  _mayLogin() {
    return this.hub.origin === location.origin || this.state === 'away' || this.signingIn;
  }

  /** Ask the notebook server for its state. */
  async _ask() {
    const headers = {'X-XSRFToken': xsrf()};
    try {
      const answer = await this.watch.send(new URL('api/status', this.base), {
        headers,
        cache: 'no-store',
        credentials: 'same-origin',
        redirect: 'manual',
        signal: AbortSignal.timeout(ANSWER),
      });
      const state = meaning(answer.status);
      if (state !== 'ok') return {state};
      const {started} = await answer.json();
      return started ? {state, started} : {state: 'away'};
    } catch {
      return {state: 'away'};
    }
  }

  /**
   * Log in to the server again, without leaving the page. An invisible frame opens a page of the server. The server sends
   * it to the hub, which knows the user and sends it back. On this way, the browser receives the new cookies. Scripts are
   * not permitted in the frame, so JupyterLab does not start in it. If the hub or the single sign-on wants to ask the user
   * something, the frame shows it to nobody, and nothing changes.
   */
  async _renewLogin() {
    const frame = document.createElement('iframe');
    frame.hidden = true;
    frame.title = gettext('Sign in');
    frame.setAttribute('sandbox', 'allow-same-origin');
    const loaded = new Promise(resolve => frame.addEventListener('load', resolve, {once: true}));
    frame.src = new URL('lab', this.base).href;
    document.body.append(frame);
    await Promise.race([loaded, sleep(LOGIN)]);
    frame.remove();
  }

  /**
   * Return the address at which the user continues in a new session. The form preselects the profile, and has the values
   * of the last session if this was its profile. When the session runs, its last page leads back to this tab.
   *
   * @param {string} [profile] The key of the profile.
   */
  continueUrl(profile = '') {
    const url = new URL(this.startUrl);
    if (profile) {
      url.searchParams.set('profile', profile);
      url.searchParams.set('again', 'on');
    }
    url.searchParams.set('next', new URL('lab/extensions/@hpchub/lab/continue.html', this.base).pathname);
    return url;
  }

  /** Ask the notebook server for the state of the session. Return null if it does not say. */
  async ask() {
    try {
      const answer = await this._fetch(this.stateUrl, {
        headers: {'X-XSRFToken': xsrf()},
        cache: 'no-store',
        credentials: 'same-origin',
        signal: AbortSignal.timeout(ANSWER),
      });
      return answer.ok ? await answer.json() : null;
    } catch {
      return null;
    }
  }

  /** Ask the hub about the session. Return null if it does not say. */
  async session() {
    // The hub's XSRF token is not available on this page. Within the same host name, the hub permits reading without it
    // in the mode "no-cors". A tab with a host name of its own may read only the state of the session of this host name.
    const same = this.hub.origin === location.origin;
    try {
      const answer = await this.watch.send(this.sessionUrl, {
        mode: same ? 'no-cors' : 'cors',
        cache: 'no-store',
        credentials: same ? 'same-origin' : 'include',
        signal: AbortSignal.timeout(ANSWER),
      });
      if (!answer.ok) return null;
      const session = await answer.json();
      return session;
    } catch {
      return null;
    }
  }

  /** Open the sign-in page in a small window, and close it when the user has signed in. */
  async signIn() {
    const next = new URL('lab/extensions/@hpchub/lab/package.json', this.base).pathname;
    const url = new URL(`login?next=${encodeURIComponent(next)}`, this.hub);
    const popup = window.open(url, 'hpchub-sign-in', 'popup,width=700,height=700');
    while (this.isLost && popup && !popup.closed) {
      await sleep(1_000);
      try {
        const {pathname} = popup.location; // not readable while the window shows the page of another host
        if (pathname !== url.pathname && [this.base, this.hub].some(each => pathname.startsWith(each.pathname))) {
          popup.close();
        }
      } catch {
        // The user has not signed in yet.
      }
    }
    this.signingIn = true;
    await this.check();
    this.signingIn = false;
  }
}
