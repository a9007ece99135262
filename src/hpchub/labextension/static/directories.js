// The tiles of the launcher that open the site's directories, such as scratch and projects, in the file browser.

import {gettext} from './gettext.js';
import {xsrfToken} from './words.js';

const COMMAND = 'hpchub:open-directory';

/** Return why a directory cannot be opened, for its user. See hpchub.remote.directory_links. */
export function reason(name, path) {
  switch (name) {
    case 'absent':
      return gettext('{path} does not exist on this node.', {path});
    case 'forbidden':
      return gettext('You may not open {path}.', {path});
    case 'silent':
      return gettext('The file server of {path} does not answer at the moment.', {path});
    case 'file':
      return gettext('{path} is not a directory.', {path});
    case 'blocked':
      return gettext(
        'A file of yours has the name of the link to {path}. Rename it, or the directory hpchub-links.',
        {path},
      );
    default:
      return gettext('The file browser of this session cannot show {path}. Use a terminal.', {path});
  }
}

/**
 * Offer the directories of the session.
 *
 * @param {import('./connection.js').Connection} connection The connection to the notebook server.
 * @param {object} commands JupyterLab's commands.
 * @param {object} launcher JupyterLab's launcher.
 * @param {object | undefined} icon The icon of the tiles.
 * @param {import('./banner.js').Banner} banner The message in the corner.
 */
export async function offerDirectories(connection, commands, launcher, icon, banner) {
  const url = new URL('api/hpchub/directories', connection.base);
  const send = async init => {
    const headers = {'X-XSRFToken': xsrfToken(document.cookie), 'Content-Type': 'application/json'};
    const answer = await fetch(url, {headers, cache: 'no-store', credentials: 'same-origin', ...init});
    if (!answer.ok) throw new Error(`${url} answers ${answer.status}`);
    return answer.json();
  };
  let found;
  try {
    ({directories: found} = await send());
  } catch (error) {
    console.info(error); // the connection to the session is lost, which the tab says anyway
    return;
  }
  commands.addCommand(COMMAND, {
    label: args => args.title ?? gettext('Open a directory of this site'),
    caption: args => (args.reason ? reason(args.reason, args.path) : (args.path ?? '')),
    isVisible: args => Boolean(args.title),
    icon,
    execute: async args => {
      // The directory may have appeared, or its file server may answer again.
      const {path, reason: why} = await send({method: 'POST', body: JSON.stringify({title: args.title})});
      if (why) {
        const title = gettext('{title} cannot be opened', {title: args.title});
        banner.show({title, text: reason(why, args.path)}, 'warning', [], true);
        return;
      }
      banner.hide();
      await commands.execute('filebrowser:go-to-path', {path: `/${path}`});
    },
  });
  found.forEach((args, rank) => launcher.add({command: COMMAND, category: gettext('Directories'), rank, args}));
}
