// The status of the session: the time that is left, the node, the job, and what the job uses.

import {statusLine} from './words.js';

const REFRESH = 30_000; // milliseconds between two looks at the clock if no figures arrive

const STYLE = `
.hpchub-status { padding: 0 8px; white-space: nowrap; font-family: var(--jp-ui-font-family, system-ui, sans-serif);
  font-size: var(--jp-ui-font-size1, 13px); line-height: 24px; color: var(--jp-ui-font-color1, #000); overflow: hidden;
  text-overflow: ellipsis; }
.hpchub-status[data-kind="warning"] { font-weight: bold; text-decoration: underline; }
.hpchub-status[data-place="page"] { position: fixed; right: 0; bottom: 0; z-index: 1000; max-width: 100vw;
  background: var(--jp-layout-color2, #eee); border-top: 1px solid var(--jp-border-color1, #bbb); }
`;

export class Status {
  constructor() {
    this.node = document.createElement('div');
    this.node.className = 'hpchub-status';
    this.node.id = 'hpchub-status';
    this.node.hidden = true;
    const style = document.createElement('style');
    style.textContent = STYLE;
    document.head.append(style);
    this.state = null;
    this.lost = false;
    setInterval(() => this._draw(), REFRESH);
  }

  /**
   * Put the status into the page: into JupyterLab's status bar, or else, in the classic interface, into a corner.
   *
   * @param {object | null} bar JupyterLab's status bar, if there is one.
   * @param {{Widget: Function} | null} lumino The library of JupyterLab's widgets.
   */
  place(bar, lumino) {
    if (bar && lumino) {
      const item = new lumino.Widget({node: this.node});
      bar.registerStatusItem('@hpchub/lab:status', {item, align: 'middle', rank: 0});
    } else {
      this.node.dataset.place = 'page';
      document.body.append(this.node);
    }
  }

  /** Show a new state; see hpchub.remote.session_monitor. Its times are the browser's. */
  show(state) {
    this.state = state;
    this._draw();
  }

  /** Show that the figures are old, because there is no connection. */
  disconnect(lost) {
    this.lost = lost;
    this._draw();
  }

  _draw() {
    if (!this.state) return;
    const {text, title, urgent} = statusLine(this.state, Date.now(), this.lost);
    this.node.hidden = false;
    if (this.node.textContent !== text) this.node.textContent = text;
    this.node.title = title;
    this.node.dataset.kind = urgent ? 'warning' : 'info';
  }
}
