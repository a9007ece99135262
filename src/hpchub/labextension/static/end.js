// The end of the session: what the tab says and does before it, and the drains and announcements that concern it.

import {before, idleTimes, idleWarning, news, warning} from './words.js';

const TICK = 15_000; // milliseconds between looks at the clock
const MOVED = 60_000; // a change of the end that is worth new warnings, in milliseconds
const USED = 3_000; // a change of the end of the idle time that shows that somebody uses the session

export class End {
  /**
   * @param {object} page What the tab can do.
   * @param {import('./banner.js').Banner} page.banner The message about the end.
   * @param {import('./banner.js').Banner} page.notices The message about drains and announcements.
   * @param {(message: object) => Array} page.buttons Returns the buttons of a message.
   * @param {(automatic: boolean) => Promise<void>} page.save Saves all documents; "automatic" does not count as use.
   * @param {() => void} page.saveLayout Saves the layout.
   * @param {() => Promise<void>} page.ask Asks for the state, and calls "take".
   * @param {() => boolean} page.isLost Whether there is no connection.
   */
  constructor(page) {
    this.page = page;
    this.seen = new Set();
    this.state = null;
    this.profile = ''; // the key of the last session's profile
    this.warned = Infinity;
    this.idleWarned = Infinity;
    this.idleShown = false;
    this.layoutSaved = false;
  }

  /** Look at the clock from now on. This sends no request. */
  run() {
    void this.tick();
    setInterval(() => this.tick(), TICK);
  }

  /** Take a new state, with the browser's times. */
  take(state) {
    const last = this.state;
    this.state = state;
    this.profile = state.job?.profile ?? this.profile;
    if (last && last.ends !== state.ends && !(Math.abs(last.ends - state.ends) < MOVED)) {
      this.warned = Infinity;
      this.layoutSaved = false;
    }
    if (state.idleEnds === null || (last?.idleEnds != null && state.idleEnds - last.idleEnds > USED)) this._used();
    const notice = news(state.notices, this.seen);
    if (notice) this.page.notices.show(notice, 'warning', this.page.buttons(notice));
  }

  /** The user wants to keep the session. The question tells the server that somebody is there. */
  async keep() {
    this._used();
    await this.page.ask();
  }

  _used() {
    this.idleWarned = Infinity;
    if (this.idleShown) this.page.banner.hide();
    this.idleShown = false;
  }

  async tick() {
    if (this.page.isLost() || !this.state) return;
    if (before(this.state.ends, Date.now(), this.warned).warn) {
      await this.page.ask(); // somebody may have given the session more time
    }
    const {state} = this;
    const now = Date.now();
    const due = before(state.ends, now, this.warned);
    const idle = before(state.idleEnds, now, this.idleWarned, idleTimes(state.idleLimit));
    if (due.warn) {
      this.warned = due.warn;
      this.idleShown = false;
      this._show(warning(state.ends, now, state.cause));
    } else if (idle.warn && (state.ends === null || state.idleEnds <= state.ends)) {
      this.idleWarned = idle.warn;
      this.idleShown = true;
      this._show(idleWarning(state.idleEnds, now, state.idleLimit));
    }
    if (due.save || idle.save) {
      await this.page.save(!due.save);
      if (!this.layoutSaved && due.save) this.page.saveLayout();
      this.layoutSaved ||= due.save;
    }
  }

  _show(message) {
    this.page.banner.show(message, 'warning', this.page.buttons(message));
  }
}
