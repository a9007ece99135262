// One message in the corner of the page. It does not block the page, so that the user can go on reading and copying.

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
.hpchub-banner[data-kind="warning"] { border-left-color: var(--jp-warn-color1, #e65100); }
.hpchub-banner strong { display: block; margin-bottom: 4px; font-size: 15px; }
.hpchub-banner p { margin: 0 0 10px; overflow-wrap: anywhere; }
.hpchub-banner button {
  margin: 0 8px 0 0; padding: 6px 12px; border: 1px solid #1565c0; border-radius: 3px; cursor: pointer;
  font: inherit; color: #1565c0; background: #fff;
}
.hpchub-banner button:first-of-type { color: #fff; background: #1565c0; }
.hpchub-banner button:focus-visible { outline: 3px solid #90caf9; outline-offset: 1px; }
`;

export class Banner {
  /** @param {'bottom' | 'top'} place The corner, so that two messages do not cover each other. */
  constructor(place = 'bottom') {
    this.place = place;
    this.node = null;
    this.shown = '';
  }

  /**
   * Show a message, unless the same message is shown or was closed by the user.
   *
   * @param {{title: string, text: string}} message The message.
   * @param {'warning' | 'info'} kind How it looks, and whether a screen reader reads it at once.
   * @param {Array<[string, () => void]>} buttons The labels and actions of the buttons. "Close" is added.
   */
  show(message, kind, buttons = []) {
    const key = JSON.stringify([message, kind, buttons.map(([label]) => label)]);
    if (key === this.shown) return;
    this.hide();
    this.shown = key;
    const node = document.createElement('div');
    node.className = 'hpchub-banner';
    node.dataset.kind = kind;
    node.dataset.place = this.place;
    node.setAttribute('role', kind === 'warning' ? 'alert' : 'status');
    const style = document.createElement('style');
    style.textContent = STYLE;
    const title = document.createElement('strong');
    title.textContent = message.title;
    const text = document.createElement('p');
    text.textContent = message.text;
    node.append(style, title, text);
    for (const [label, action] of [...buttons, ['Close', () => this._close()]]) {
      const button = document.createElement('button');
      button.type = 'button';
      button.textContent = label;
      button.addEventListener('click', action);
      node.append(button);
    }
    document.body.append(node);
    this.node = node;
  }

  _close() {
    this.node?.remove();
    this.node = null;
  }

  /** Remove the message. */
  hide() {
    this._close();
    this.shown = '';
  }
}
