// The status of the session: the time that is left, the node, the job, and what the job uses.

import {Banner} from './banner.js';
import {code, gettext} from './gettext.js';
import {statusLine} from './words.js';

const REFRESH = 30_000; // milliseconds between two looks at the clock if no figures arrive

const STYLE = `
.hpchub-status button { box-sizing: border-box; max-width: 100%; min-height: 24px; margin: 0; padding: 0 8px; border: 0;
  font: var(--jp-ui-font-size1, 13px)/24px var(--jp-ui-font-family, system-ui, sans-serif); white-space: nowrap;
  overflow: hidden; text-overflow: ellipsis; color: var(--jp-ui-font-color1, #000); background: none; cursor: pointer; }
.hpchub-status button:focus-visible { outline: 2px solid var(--jp-ui-font-color1, #000); outline-offset: -2px; }
.hpchub-status[data-kind="warning"] button { font-weight: bold; text-decoration: underline; }
.hpchub-status[data-place="page"] { position: fixed; right: 0; bottom: 0; z-index: 1000; max-width: 100vw;
  background: var(--jp-layout-color2, #eee); border-top: 1px solid var(--jp-border-color1, #bbb); }
`;

export class Status {
  constructor() {
    this.node = document.createElement('div');
    this.node.className = 'hpchub-status';
    this.node.id = 'hpchub-status';
    this.node.hidden = true;
    this.node.setAttribute('role', 'region');
    this.button = document.createElement('button');
    this.button.type = 'button';
    this.button.addEventListener('click', () => this._showDetails());
    this.node.append(this.button);
    this.details = new Banner('left');
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
   * @param {Function | undefined} Widget The class of JupyterLab's widgets.
   */
  place(bar, Widget) {
    if (bar && Widget) {
      const item = new Widget({node: this.node});
      bar.registerStatusItem('@hpchub/lab:status', {item, align: 'middle', rank: 0, priority: 1});
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

  /** Return the line about the session, or null if nothing is known. */
  _line() {
    return this.state && statusLine(this.state, Date.now(), this.lost);
  }

  _draw() {
    const line = this._line();
    if (!line) return;
    this.node.hidden = false;
    this.node.lang = code();
    this.node.setAttribute('aria-label', gettext('Your session'));
    if (this.button.textContent !== line.text) this.button.textContent = line.text;
    this.button.title = line.title;
    this.node.dataset.kind = line.urgent ? 'warning' : 'info';
  }

  /** Show the details, which are not readable in the status bar by keyboard or touch. */
  _showDetails() {
    const {text, title} = this._line();
    this.details.hide();
    this.details.show({title: gettext('Details of your session'), text: `${text}\n${title}`}, 'info', [], true);
  }
}
