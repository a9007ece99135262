// The messages of the session in NbClassic, which does not load extensions of JupyterLab: the time that is left, warnings
// before the end, saving before it, and what to do when the connection is lost. NbClassic keeps no drafts.

import {Banner, focusLatest} from './banner.js';
import {Connection} from './connection.js';
import {End} from './end.js';
import {gettext, load} from './gettext.js';
import {Status} from './status.js';
import {connected, timed} from './words.js';

const INTERVAL = 60_000; // milliseconds between two questions about the session

/** Return JupyterLab's addresses, from a page of NbClassic. */
export function addresses(base, home) {
  const [user = '', name = ''] = base.split('/user/').at(-1).split('/');
  return {
    base,
    hubHost: home.origin,
    hubPrefix: home.pathname.slice(0, home.pathname.lastIndexOf('/') + 1),
    hubUser: decodeURIComponent(user),
    hubServerName: decodeURIComponent(name),
  };
}

/** Start the messages on a page of NbClassic. */
export async function start(Jupyter) {
  const control = document.getElementById('jupyterhub-control-panel-link');
  if (!control) return;
  const watch = {send: window.fetch.bind(window)};
  await load(watch.send);

  const banner = new Banner();
  const notices = new Banner('top');
  const status = new Status();
  const open = url => window.open(url, '_blank');
  const actions = {
    start: () => [gettext('Continue in a new session'), () => open(connection.continueUrl(end.profile))],
    progress: () => [gettext('Show the progress'), () => open(connection.progressUrl)],
    home: () => [gettext('Open my home page'), () => open(connection.homeUrl)],
    'sign-in': () => [gettext('Sign in'), () => connection.signIn()],
    keep: () => [gettext('Keep the session'), () => end.keep()],
  };
  const buttons = message => (message.action ? [actions[message.action]()] : []);
  const {notebook, editor} = Jupyter;
  const isChanged = () => Boolean(notebook ? notebook.dirty : editor && !editor.codemirror.isClean(editor.generation));
  const save = async () => {
    if (isChanged()) await (notebook ? notebook.save_notebook() : editor.save());
  };
  const events = {
    lost: message => {
      status.disconnect(true);
      banner.show(message, 'warning', buttons(message));
    },
    back: async renewed => {
      status.disconnect(false);
      banner.hide();
      const changed = isChanged();
      await save().catch(error => console.warn(error));
      const failed = isChanged() ? [(notebook ?? editor).notebook_path ?? editor.file_path] : [];
      banner.show(connected(renewed, Number(changed && !failed.length), failed), failed.length ? 'warning' : 'info');
      if (renewed) notebook?.session?.restart();
      await ask();
    },
  };
  const connection = new Connection(watch, addresses(document.body.dataset.baseUrl, new URL(control.href)), events, () => 'tab');
  const end = new End({
    banner,
    notices,
    buttons,
    save,
    saveLayout: () => {},
    ask: () => ask(),
    isLost: () => connection.isLost,
  });
  const ask = async () => {
    const state = await connection.ask();
    if (!state) return;
    const here = timed(state, Date.now());
    status.show(here);
    end.take(here);
  };

  status.place(null);
  // NbClassic takes keys for commands unless it is told not to.
  const isOurs = event => ['.hpchub-banner', '.hpchub-status'].some(name => event.target.closest?.(name));
  document.addEventListener('focusin', event => isOurs(event) && Jupyter.keyboard_manager?.disable());
  document.addEventListener('focusout', event => isOurs(event) && Jupyter.keyboard_manager?.enable());
  document.addEventListener('keydown', event => {
    if (event.altKey && event.shiftKey && event.code === 'KeyM' && focusLatest()) event.preventDefault();
  });
  document.addEventListener('visibilitychange', () => !document.hidden && !connection.isLost && ask());
  setInterval(() => !connection.isLost && ask(), INTERVAL);
  await connection.check();
  await ask();
  end.run();
}
