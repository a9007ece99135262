// The plugins of the extension: the status of the session, warnings before its end, and what keeps unsaved work when a
// session, the connection or the single sign-on ends.

import {Banner, focusLatest, isShown, KEYS} from './banner.js';
import {Connection} from './connection.js';
import {offerDirectories} from './directories.js';
import {Documents} from './documents.js';
import {Drafts} from './drafts.js';
import {End} from './end.js';
import {gettext, load} from './gettext.js';
import {Status} from './status.js';
import {connected, found, timed} from './words.js';

const SOON = 30_000; // the shortest time between two questions when the user comes back to the tab, in milliseconds
const COMMAND = 'hpchub:go-to-message';
const EVENT = 'https://schema.hpchub/session/v1'; // see hpchub.remote.session_monitor
const OPTIONAL = ['IStatusBar', 'IStateDB', 'ISettingRegistry', 'ILauncher']; // what JupyterLab may provide
const LANGUAGE = '@jupyterlab/translation-extension:plugin'; // the settings of JupyterLab's own language

export default (watch, {IConnectionLost, JupyterFrontEnd}, {IDocumentManager}, libraries) => [
  {
    id: '@hpchub/lab:unsaved-work',
    description: 'Shows the session, warns before its end, and saves unsaved work in the next session.',
    autoStart: true,
    requires: [JupyterFrontEnd.IPaths, IDocumentManager],
    optional: known(libraries).map(name => libraries[name]),
    activate: (app, paths, manager, ...services) => {
      if (!paths.urls.hubPrefix) return;
      const provided = Object.fromEntries(known(libraries).map((name, index) => [name, services[index]]));
      start(watch, app, paths.urls, manager, {...libraries, ...provided});
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

/** Return the names of the optional tokens that JupyterLab knows. */
function known(libraries) {
  return OPTIONAL.filter(name => libraries[name]);
}

/** Return the language that the user has chosen in JupyterLab, or an empty text. */
async function ownLanguage(settings) {
  const chosen = await settings?.get(LANGUAGE, 'locale').catch(() => null);
  return typeof chosen?.composite === 'string' && chosen.composite !== 'default' ? chosen.composite : '';
}

function start(watch, app, urls, manager, services) {
  const {IStatusBar: bar, IStateDB: layout, ISettingRegistry: settings, ILauncher: launcher, Widget} = services;
  const translated = ownLanguage(settings).then(own => load(watch.send, own));
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
    start: () => [gettext('Continue in a new session'), () => open(connection.continueUrl(end.profile))],
    progress: () => [gettext('Show the progress'), () => open(connection.progressUrl)],
    home: () => [gettext('Open my home page'), () => open(connection.homeUrl)],
    'sign-in': () => [gettext('Sign in'), () => connection.signIn()],
    keep: () => [gettext('Keep the session'), () => end.keep()],
  };
  const buttons = message => [
    ...(message.action ? [actions[message.action]()] : []),
    ...(connection.isLost && !drafts.isReliable ? [[gettext('Download my changes'), () => documents.download()]] : []),
  ];
  const events = {
    lost: message => {
      status.disconnect(true);
      documents.rememberKernels();
      void documents.keep().then(() => show(connection.message ?? message));
    },
    back: async renewed => {
      status.disconnect(false);
      documents.rememberKernels();
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

  void app.restored.then(async () => {
    await translated;
    status.place(bar, Widget);
    app.commands.addCommand(COMMAND, {
      label: gettext('Go to the message of the service'),
      isEnabled: isShown,
      execute: focusLatest,
    });
    app.commands.addKeyBinding({command: COMMAND, keys: [KEYS], selector: 'body', args: {}});
    if (launcher) void offerDirectories(connection, app.commands, launcher, services.folderIcon, banner);
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
      gettext('Restore'),
      async () => {
        const lines = [];
        for (const draft of kept) {
          try {
            const path = await documents.restore(draft);
            const values = {copy: path, path: draft.path};
            lines.push(path === draft.path ? path : gettext('{copy} (a copy, because {path} has changed since)', values));
          } catch (error) {
            console.warn(error);
            const values = {path: draft.path, reason: error.message};
            lines.push(gettext('{path}: not restored ({reason}); this browser still has the changes', values));
          }
        }
        banner.show({title: gettext('Your changes are back'), text: `${lines.join('; ')}.`}, 'info');
      },
    ],
    [
      gettext('Delete the changes'),
      async () => {
        if (!window.confirm(gettext('Delete these changes? You cannot get them back.'))) return;
        for (const {path, tab} of kept) await drafts.remove(path, tab);
        banner.hide();
      },
    ],
  ]);
}
