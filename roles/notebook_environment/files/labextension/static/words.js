// What answers mean, and what the tab tells its user. Nothing here has side effects.

/** The time before the end of a session at which the tab saves all documents again and again, in milliseconds. */
export const SAVE_BEFORE = 150_000;

/** The times before the end of a session at which the tab warns, in milliseconds, the latest first. */
export const WARN_BEFORE = [5 * 60_000, 15 * 60_000];

/**
 * Return what an answer of the user's notebook server says about this tab's connection.
 *
 * @param {number} status The HTTP status, or 0 if there is no answer.
 * @returns {'ok' | 'login' | 'sign-on' | 'away'} "login": the server does not know this tab. "sign-on": the single
 *   sign-on is over. "away": the server does not answer.
 */
export function meaning(status) {
  if (status >= 200 && status < 300) return 'ok';
  if (status === 401) return 'sign-on';
  return status === 403 ? 'login' : 'away';
}

/** Return whether an answer may mean that the connection to the session is lost. 403 and 404 have other causes too. */
export function suspicious(status) {
  return [0, 401, 403, 404, 424, 502, 503, 504].includes(status);
}

/**
 * Return the XSRF token of a page among its cookies. Another session of the user may have set a cookie for a shorter path.
 * The browser puts the cookie with the longest path first.
 */
export function xsrfToken(cookies) {
  return cookies.match(/(?:^|;\s*)_xsrf=([^;]*)/)?.[1] ?? '';
}

/** Return a point in time in milliseconds, from seconds since 1970 or an ISO text, or null. */
export function moment(value) {
  if (typeof value === 'number' && Number.isFinite(value)) return value * 1000;
  const parsed = typeof value === 'string' ? Date.parse(value) : NaN;
  return Number.isNaN(parsed) ? null : parsed;
}

/** Return a time of day as the user's browser writes it. */
function clock(milliseconds, locale) {
  return new Date(milliseconds).toLocaleTimeString(locale, {hour: '2-digit', minute: '2-digit'});
}

const KEPT = 'Your unsaved changes are kept in this tab and in this browser.';
const CONNECTS = 'This tab then connects to it and saves your changes.';

/**
 * Return what the tab shows while it has no connection.
 *
 * @param {'login' | 'sign-on' | 'away'} state What the last answer of the notebook server means.
 * @param {object | null} session The hub's answer about the session, or null if the hub gave none.
 * @param {string} [locale] The language of the time of day.
 * @returns {{title: string, text: string, action: '' | 'start' | 'progress' | 'sign-in' | 'home'}}
 */
export function lost(state, session, locale) {
  if (state === 'sign-on') {
    return {
      title: 'You are signed out',
      text: `Sign in again. ${KEPT} They are saved as soon as you are signed in.`,
      action: 'sign-in',
    };
  }
  switch (session?.state) {
    case 'ended':
    case 'none': {
      const at = moment(session.ending?.at);
      const how = session.ending?.text ? `${session.ending.text} ` : '';
      return {
        title: at === null ? 'Your session has ended' : `Your session ended at ${clock(at, locale)}`,
        text: `${how}${KEPT} Start a new session. ${CONNECTS}`,
        action: 'start',
      };
    }
    case 'starting':
      return {
        title: 'Your new session is starting',
        text: `${KEPT} This tab connects to the session as soon as it runs, and saves them.`,
        action: 'progress',
      };
    case 'running':
      return state === 'login'
        ? {
            title: 'Your session does not accept this tab',
            text: `Sign in again. ${KEPT} They are saved as soon as you are signed in.`,
            action: 'sign-in',
          }
        : {
            title: 'The connection to your session is interrupted',
            text: `${KEPT} This tab tries to connect again. If this takes more than a minute, look at your home page.`,
            action: 'home',
          };
    default:
      return state === 'login'
        ? {
            title: 'Your session does not accept this tab',
            text: `Perhaps the session has ended, or you are signed out. ${KEPT} Sign in again.`,
            action: 'sign-in',
          }
        : {
            title: 'Your session does not answer',
            text:
              `Perhaps it has ended, or the network is interrupted. ${KEPT} This tab tries to connect again. ` +
              'Your home page shows whether your session runs.',
            action: 'home',
          };
  }
}

/** Return what JupyterLab's own error dialog says when the user saves or opens a file without a connection. */
export function refused(message) {
  return `${message.title}. ${message.text}`;
}

/**
 * Return what to do at a time before the end of the session.
 *
 * @param {number | null} ends When the session ends, in milliseconds since 1970, or null if this is not known.
 * @param {number} now The current time, in the same unit.
 * @param {number} warned The smallest time before the end at which the tab has warned, or Infinity.
 * @returns {{warn: number, save: boolean}} "warn" is the time before the end to warn about, or 0.
 */
export function before(ends, now, warned) {
  const left = ends === null ? Infinity : ends - now;
  if (left <= 0) return {warn: 0, save: false};
  const due = WARN_BEFORE.find(each => left <= each);
  return {warn: due !== undefined && due < warned ? due : 0, save: left <= SAVE_BEFORE};
}

/** Return the warning before the end of a session. */
export function warning(ends, now, locale) {
  const minutes = Math.max(1, Math.round((ends - now) / 60_000));
  return {
    title: `Your session ends at ${clock(ends, locale)}, in ${minutes} ${minutes === 1 ? 'minute' : 'minutes'}`,
    text:
      'This tab saves your open documents shortly before. Variables and running computations are lost at the end: ' +
      'write results to files.',
    action: '',
  };
}

/** Return a date and a time as the user's browser writes them. */
function date(milliseconds, locale) {
  return new Date(milliseconds).toLocaleString(locale, {dateStyle: 'medium', timeStyle: 'short'});
}

/** Return when a drain is, in words. */
function period({from, until, active}, locale) {
  const end = until === null ? 'until further notice' : `until ${date(until * 1000, locale)}`;
  return active ? `It lasts ${end}` : `It lasts from ${date(from * 1000, locale)} ${end}`;
}

/**
 * Return what the tab shows about drains and announcements that the user has not seen yet, or null.
 *
 * @param {object[] | undefined} notices What the hub says, see Notice.public in hpchub.model.notices.
 * @param {Set<string>} seen What the user has seen. This function adds what it returns.
 * @param {string} [locale] The language of the times.
 * @returns {{title: string, text: string, action: '' | 'home'} | null} The text is plain text.
 */
export function news(notices, seen, locale) {
  const fresh = (notices ?? []).filter(each => {
    const key = `${each.key} ${each.message} ${each.active} ${each.ask} ${each.stop_at}`;
    return !seen.has(key) && seen.add(key);
  });
  if (!fresh.length) return null;
  const lines = fresh.map(each => {
    const when = each.kind === 'drain' ? `${period(each, locale)}.` : '';
    const stop = each.stop_at === null ? '' : `At ${date(each.stop_at * 1000, locale)}, the service stops sessions that still run.`;
    return [each.title, [when, each.message, each.advice, stop].filter(Boolean).join(' ')];
  });
  const ask = fresh.some(each => each.ask);
  const action = ask ? 'home' : '';
  if (lines.length === 1) return {title: lines[0][0], text: lines[0][1], action};
  return {title: 'Announcements', text: lines.map(parts => parts.join(': ')).join(' '), action};
}

/** Return what the tab says after it has connected again. */
export function connected(renewed, saved, failed) {
  const parts = [];
  if (saved) parts.push(saved === 1 ? '1 document is saved.' : `${saved} documents are saved.`);
  if (failed.length) {
    parts.push(`Not saved yet: ${failed.join(', ')}. Your changes are still in this tab. Save again.`);
  }
  if (renewed) parts.push('Variables of the former session are gone: run the cells that you need again.');
  return {
    title: renewed ? 'This tab is connected to your new session' : 'This tab is connected again',
    text: parts.join(' '),
    action: '',
  };
}

/** Return whether a file on disk is still the one that a draft began with. */
export function unchanged(draft, file) {
  if (!file) return false;
  return draft.hash && file.hash ? draft.hash === file.hash : draft.modified === file.last_modified;
}

/** The parts of a notebook that JupyterLab and its server write by themselves. */
const AUTOMATIC = new Set(['id', 'kernelspec', 'language_info', 'nbformat_minor', 'trusted']);

/** Return a notebook, or a part of one, in a form that is the same for the same content. */
function canonical(value) {
  if (Array.isArray(value)) {
    // A text may be one string or a list of its lines.
    return value.length && value.every(each => typeof each === 'string') ? value.join('') : value.map(canonical);
  }
  if (value === null || typeof value !== 'object') return value;
  const names = Object.keys(value).filter(name => !AUTOMATIC.has(name));
  return Object.fromEntries(names.sort().map(name => [name, canonical(value[name])]));
}

/** Return a document's text in a form that is the same for the same content. */
function essence(format, text) {
  return format === 'json' ? JSON.stringify(canonical(JSON.parse(text))) : text.replace(/\r\n?/g, '\n');
}

/**
 * Return whether a draft has nothing that its file does not have.
 *
 * @param {{format: string, text: string}} draft The draft.
 * @param {{format: string, content: any} | null} file The file as the server returns it.
 */
export function sameContent(draft, file) {
  if (file?.content == null) return false;
  const text = draft.format === 'json' ? JSON.stringify(file.content) : String(file.content);
  return essence(draft.format, draft.text) === essence(draft.format, text);
}

/** Return a short text that is the same for the same content, so that a tab need not keep a copy of each document. */
export function fingerprint(format, text) {
  const content = essence(format, text);
  let one = 0x811c9dc5;
  let other = 0x1b873593;
  for (let index = 0; index < content.length; index += 1) {
    const code = content.charCodeAt(index);
    one = Math.imul(one ^ code, 0x01000193);
    other = Math.imul(other ^ code, 0x85ebca6b);
    other ^= other >>> 15;
  }
  return `${content.length} ${one >>> 0} ${other >>> 0}`;
}

/** Return the path of a copy with a draft's content, which no file should have yet. */
export function copyPath(path, at) {
  const slash = path.lastIndexOf('/') + 1;
  const dot = path.lastIndexOf('.');
  const stem = dot > slash ? path.slice(0, dot) : path;
  const stamp = new Date(at).toISOString().slice(0, 19).replace('T', ' ').replaceAll(':', '.');
  return `${stem} (unsaved changes of ${stamp} UTC)${dot > slash ? path.slice(dot) : ''}`;
}

/** Return the question about drafts of an earlier tab. */
export function found(drafts, locale) {
  const names = drafts.map(each => `${each.path} (${new Date(each.at).toLocaleString(locale)})`);
  return {
    title: 'Some changes were not saved',
    text: `This browser has kept them: ${names.join(', ')}.`,
    action: '',
  };
}

/** Return how long to wait before the next draft of a document, in milliseconds, after one that took so long. */
export function pause(duration) {
  return Math.min(Math.max(2_000, 20 * duration), 60_000);
}
