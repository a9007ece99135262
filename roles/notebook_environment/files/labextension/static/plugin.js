// The plugins of the extension: the status of the session, warnings before its end, and what keeps unsaved work when a
// session, the connection or the single sign-on ends.

import {Banner} from './banner.js';
import {Connection} from './connection.js';
import {Documents} from './documents.js';
import {Drafts} from './drafts.js';
import {End} from './end.js';
import {Status} from './status.js';
import {connected, found, timed} from './words.js';

const SOON = 30_000; // the shortest time between two questions when the user comes back to the tab, in milliseconds
const EVENT = 'https://schema.hpchub/session/v1'; // see hpchub.remote.session_monitor

export default (watch, {IConnectionLost, JupyterFrontEnd}, {IDocumentManager}, {IStatusBar}, {IStateDB}, lumino) => [
  {
    id: '@hpchub/lab:unsaved-work',
    description: 'Shows the session, warns before its end, and saves unsaved work in the next session.',
    autoStart: true,
    requires: [JupyterFrontEnd.IPaths, IDocumentManager],
    optional: [IStatusBar, IStateDB].filter(Boolean),
    activate: (app, paths, manager, ...optional) => {
      if (!paths.urls.hubPrefix) return;
      const bar = IStatusBar ? optional.shift() : null;
      start(watch, app, paths.urls, manager, {bar, lumino, layout: optional.shift()});
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

function start(watch, app, urls, manager, {bar, lumino, layout}) {
  const banner = new Banner();
  const status = new Status();
  const drafts = new Drafts(urls.base);
  const show = message => banner.show(message, 'warning', buttons(message));
  const documents = new Documents(app.docRegistry, manager, app.serviceManager, drafts, () => {
    if (connection.isLost) {
      banner.hide(); // show it again, even if the user has closed it
      show(connection.message);
    }
    return connection.isLost;
  });

  const open = url => window.open(url, '_blank');
  const actions = {
    start: () => ['Continue in a new session', () => open(connection.continueUrl(end.profile))],
    progress: () => ['Show the progress', () => open(connection.progressUrl)],
    home: () => ['Open my home page', () => open(connection.homeUrl)],
    'sign-in': () => ['Sign in', () => connection.signIn()],
    keep: () => ['Keep the session', () => end.keep()],
  };
  const buttons = message => [
    ...(message.action ? [actions[message.action]()] : []),
    ...(connection.isLost && !drafts.isReliable ? [['Download my changes', () => documents.download()]] : []),
  ];
  const events = {
    lost: message => {
      status.disconnect(true);
      void documents.keep().then(() => show(connection.message ?? message));
    },
    back: async renewed => {
      status.disconnect(false);
      banner.hide();
      const {saved, failed} = await documents.save();
      if (connection.isLost) return;
      saveLayout();
      banner.show(connected(renewed, saved, failed), failed.length ? 'warning' : 'info');
      await documents.reviveKernels();
      await ask();
    },
  };
  const connection = new Connection(watch, urls, events, () => drafts.isReliable);
  watch.check = () => connection.check();

  // JupyterLab writes its whole state, with the open tabs, when a value in it changes.
  const saveLayout = () => void layout?.save('hpchub:saved', Date.now()).catch(error => console.info(error));
  const save = async (automatic = false) => {
    connection.automatic = automatic;
    await documents.save().finally(() => (connection.automatic = false));
  };
  const notices = new Banner('top');
  const end = new End({banner, notices, buttons, save, saveLayout, ask: () => ask(), isLost: () => connection.isLost});

  let asked = 0;
  const take = state => {
    const here = timed(state, Date.now());
    status.show(here);
    end.take(here);
  };
  const ask = async () => {
    asked = Date.now();
    const state = await connection.ask();
    if (state) take(state);
  };
  // The server sends the state over a websocket that JupyterLab opens anyway.
  app.serviceManager.events?.stream.connect((_, event) => {
    if (event.schema_id === EVENT && event.session) take(event.session);
  });
  // The user may come back to this tab after hours.
  const look = () => !document.hidden && !connection.isLost && Date.now() - asked > SOON && ask();
  document.addEventListener('visibilitychange', look);
  window.addEventListener('focus', look);

  status.place(bar, lumino);
  void app.restored.then(async () => {
    await connection.check();
    await ask();
    end.run();
    await offerDrafts(documents, drafts, banner);
  });
}

/** Offer the drafts of tabs that were closed, or that crashed, before their documents were saved. */
async function offerDrafts(documents, drafts, banner) {
  let kept = await drafts.orphans();
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
