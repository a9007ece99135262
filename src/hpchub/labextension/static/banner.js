// One message in the corner of the page. It does not block the page, so that the user can go on reading and copying.

import {code, gettext} from './gettext.js';

const STYLE = `
.hpchub-banner {
  position: fixed; right: 16px; bottom: 40px; z-index: 10001; box-sizing: border-box; width: 420px;
  max-width: calc(100vw - 32px); max-height: 60vh; overflow: auto; padding: 12px 16px;
  color: var(--jp-ui-font-color1, #000); background: var(--jp-layout-color1, #fff);
  border: 1px solid var(--jp-border-color1, #bbb); border-left: 6px solid var(--jp-brand-color1, #1976d2);
  border-radius: 4px; box-shadow: 0 4px 12px rgb(0 0 0 / 30%);
  font-family: var(--jp-ui-font-family, system-ui, sans-serif); font-size: 14px; line-height: 1.4;
}
.hpchub-banner[data-place="top"] { top: 40px; bottom: auto; }
.hpchub-banner[data-place="left"] { left: 16px; right: auto; }
.hpchub-banner[data-kind="warning"] { border-left-color: var(--jp-warn-color1, #e65100); }
.hpchub-banner strong { display: block; margin-bottom: 4px; font-size: 15px; }
.hpchub-banner p { margin: 0 0 10px; overflow-wrap: anywhere; white-space: pre-line; }
.hpchub-banner button {
  margin: 0 8px 4px 0; padding: 6px 12px; border: 1px solid #1565c0; border-radius: 3px; cursor: pointer;
  font: inherit; color: #1565c0; background: #fff;
}
.hpchub-banner button:first-of-type { color: #fff; background: #1565c0; }
.hpchub-banner:focus-visible, .hpchub-banner button:focus-visible {
  outline: 3px solid var(--jp-ui-font-color1, #000); outline-offset: 1px;
}
.hpchub-spoken { position: fixed; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
`;

const SPEAK = 100; // milliseconds after which a screen reader knows a new region
const SPOKEN = 60_000; // milliseconds after which a text has been read

let open = []; // the banners that are shown, the latest last
let last = 0; // the number of the last message

/** Add the styles of the banners to the page, once. */
function addStyle() {
  if (document.getElementById('hpchub-banner-style')) return;
  const style = document.createElement('style');
  style.id = 'hpchub-banner-style';
  style.textContent = STYLE;
  document.head.append(style);
}

/**
 * Let screen readers say a text. They follow only a region that was in the page before its text.
 *
 * @param {string} text The text.
 * @param {'warning' | 'info'} kind Whether to say it at once, or after what is being said.
 */
function speak(text, kind) {
  const id = `hpchub-spoken-${kind}`;
  let region = document.getElementById(id);
  if (!region) {
    region = document.createElement('div');
    region.id = id;
    region.className = 'hpchub-spoken';
    region.setAttribute('role', kind === 'warning' ? 'alert' : 'status');
    region.setAttribute('aria-atomic', 'false'); // read only what is new
    document.body.append(region);
  }
  const line = document.createElement('p');
  line.lang = code();
  line.textContent = text;
  setTimeout(() => region.append(line), SPEAK);
  setTimeout(() => line.remove(), SPOKEN);
}

/** The keys that move the focus to the latest message, for JupyterLab and for people. */
export const KEYS = 'Alt Shift M';

/** Move the focus to the latest message, and return whether there is one. */
export function focusLatest() {
  open.at(-1)?.focus();
  return open.length > 0;
}

/** Return whether a message is shown. */
export function isShown() {
  return open.length > 0;
}

export class Banner {
  /** @param {'bottom' | 'top' | 'left'} place The corner, so that two messages do not cover each other. */
  constructor(place = 'bottom') {
    this.place = place;
    this.node = null;
    this.shown = '';
    this.before = null; // what had the focus before this message
  }

  /**
   * Show a message, unless the same message is shown or was closed by the user.
   *
   * @param {{title: string, text: string}} message The message.
   * @param {'warning' | 'info'} kind How it looks, and whether a screen reader reads it at once.
   * @param {Array<[string, () => void]>} buttons The labels and actions of the buttons. "Close" is added.
   * @param {boolean} [isAsked] Whether the user has asked for the message. It then gets the focus.
   */
  show(message, kind, buttons = [], isAsked = false) {
    const key = JSON.stringify([message, kind, buttons.map(([label]) => label)]);
    if (key === this.shown) return;
    this.hide();
    this.shown = key;
    addStyle();
    last += 1;
    const node = document.createElement('section');
    node.className = 'hpchub-banner';
    node.lang = code();
    node.dataset.kind = kind;
    node.dataset.place = this.place;
    node.tabIndex = -1;
    const [title, text] = ['strong', 'p'].map(name => document.createElement(name));
    title.id = `hpchub-title-${last}`;
    title.textContent = message.title;
    text.id = `hpchub-text-${last}`;
    text.textContent = message.text;
    node.setAttribute('aria-labelledby', title.id);
    node.setAttribute('aria-describedby', text.id);
    node.append(title, text);
    for (const [label, action] of [...buttons, [gettext('Close'), () => this._close()]]) {
      const button = document.createElement('button');
      button.type = 'button';
      button.textContent = label;
      button.addEventListener('click', action);
      node.append(button);
    }
    node.addEventListener('keydown', event => {
      if (event.key === 'Escape') this._close();
    });
    document.body.append(node);
    this.node = node;
    open.push(this);
    if (isAsked) {
      this.focus();
    } else {
      const hint = gettext('Press {keys} to go to this message.', {keys: KEYS.replaceAll(' ', '+')});
      speak([message.title, message.text, hint].join('\n'), kind);
    }
  }

  /** Move the focus to the message. Closing it moves the focus back. */
  focus() {
    if (!this.node || this.node.contains(document.activeElement)) return;
    this.before = document.activeElement;
    this.node.focus();
  }

  _close() {
    const had = this.node?.contains(document.activeElement);
    this.node?.remove();
    this.node = null;
    open = open.filter(each => each !== this);
    if (had && this.before?.isConnected) this.before.focus();
    this.before = null;
  }

  /** Remove the message. */
  hide() {
    this._close();
    this.shown = '';
  }
}
