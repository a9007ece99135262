// What answers mean, and what the tab tells its user. Nothing here has side effects.

import {code, gettext, locale as own, ngettext} from './gettext.js';

/** The time before the end of a session at which the tab saves all documents again and again, in milliseconds. */
export const SAVE_BEFORE = 150_000;

/** The times before the end of a session at which the tab warns, in milliseconds, the latest first. */
export const WARN_BEFORE = [2 * 60_000, 10 * 60_000, 30 * 60_000];

/** The time before the end of an idle session from which on the status bar shows it, in milliseconds. */
const SOON_IDLE = 30 * 60_000;

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

/**
 * Return whether an answer may mean that the connection to the session is lost. 403, 404 and 500 have other causes too.
 * The server answers 500 if it asks the hub about this tab and the hub does not answer.
 */
export function suspicious(status) {
  return [0, 401, 403, 404, 424, 500, 502, 503, 504].includes(status);
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

/** Return a time of day as the user writes it. */
function clock(milliseconds, locale) {
  return new Date(milliseconds).toLocaleTimeString(locale, {hour: '2-digit', minute: '2-digit'});
}

/** Return whether a point in time is on the same day as another one, where the user is. */
function isToday(milliseconds, now) {
  return new Date(milliseconds).toDateString() === new Date(now).toDateString();
}

/** Return what the hub says with its texts in the user's language. An older hub has only English texts. */
function translated(value) {
  return {...value, ...value.texts?.[code()]};
}

/** End what an administrator wrote like a sentence, because other sentences follow it. */
function ended(text) {
  return /[\p{Letter}\p{Number}]$/u.test(text) ? `${text}.` : text;
}

/** Return whole sentences as one text. Empty ones are left out. */
function together(...sentences) {
  return sentences.filter(Boolean).join(' ');
}

/** Return where the unsaved changes are kept. */
function kept(stored) {
  if (stored === 'tab') return gettext('Your unsaved changes are kept in this tab only. Do not close it.');
  return stored
    ? gettext('Your unsaved changes are kept in this tab and in this browser.')
    : gettext(
        'Your unsaved changes are kept in this tab only, because the storage of this browser is full or off. ' +
          'Do not close it.',
      );
}

/**
 * Return what the tab shows while it has no connection.
 *
 * @param {'login' | 'sign-on' | 'away'} state What the last answer of the notebook server means.
 * @param {object | null} session The hub's answer about the session, or null if the hub gave none.
 * @param {string} [locale] The language of the time of day.
 * @param {boolean | 'tab'} [stored] Whether the browser's storage keeps the unsaved changes. "tab": no interface does so.
 * @param {number} [now] The current time, in milliseconds since 1970.
 * @returns {{title: string, text: string, action: '' | 'start' | 'progress' | 'sign-in' | 'home'}}
 */
export function lost(state, session, locale = own(), stored = true, now = Date.now()) {
  const isSaved = gettext('They are saved as soon as you are signed in.');
  const again = gettext('Sign in again.');
  const tries = gettext('This tab tries to connect again.');
  if (state === 'sign-on') {
    return {title: gettext('You are signed out'), text: together(again, kept(stored), isSaved), action: 'sign-in'};
  }
  switch (session?.state) {
    case 'ended':
    case 'none': {
      const at = moment(session.ending?.at);
      return {
        title:
          at === null
            ? gettext('Your session has ended')
            : isToday(at, now)
              ? gettext('Your session ended at {time}', {time: clock(at, locale)})
              : gettext('Your session ended on {time}', {time: date(at, locale)}),
        text: together(
          session.ending && translated(session.ending).text,
          kept(stored),
          gettext('Continue in a new session, with the same profile or another one.'),
          gettext('This tab then connects to it and saves your changes.'),
        ),
        action: 'start',
      };
    }
    case 'starting':
      return {
        title: gettext('Your new session is starting'),
        text: together(
          kept(stored),
          gettext('This tab connects to the session as soon as it runs, and saves them.'),
        ),
        action: 'progress',
      };
    case 'running':
      return state === 'login'
        ? {
            title: gettext('Your session does not accept this tab'),
            text: together(again, kept(stored), isSaved),
            action: 'sign-in',
          }
        : {
            title: gettext('The connection to your session is interrupted'),
            text: together(
              kept(stored),
              tries,
              gettext('If this takes more than a minute, look at your home page.'),
            ),
            action: 'home',
          };
    default:
      return state === 'login'
        ? {
            title: gettext('Your session does not accept this tab'),
            text: together(gettext('Perhaps the session has ended, or you are signed out.'), kept(stored), again),
            action: 'sign-in',
          }
        : {
            title: gettext('Your session does not answer'),
            text: together(
              gettext('Perhaps it has ended, or the network is interrupted.'),
              kept(stored),
              tries,
              gettext('Your home page shows whether your session runs.'),
            ),
            action: 'home',
          };
  }
}

/** Return what JupyterLab's own error dialog says when the user saves or opens a file without a connection. */
export function refused(message) {
  return `${message.title}. ${message.text}`;
}

/**
 * Return what JupyterLab's dialog says when a file cannot be saved because the disk is full or the quota is used up.
 *
 * @param {string} error The error of the notebook server.
 * @param {boolean} stored Whether the browser's storage keeps the unsaved changes.
 * @returns {string} The text, or an empty text if the file cannot be saved for another reason.
 */
export function full(error, stored) {
  if (!/No space left|quota exceeded|\[Errno (28|122)\]/i.test(error)) return '';
  return together(
    gettext('There is no space left for this file: the disk is full, or you have used up your quota.'),
    kept(stored),
    gettext('Delete files that you do not need. Then save again.'),
  );
}

/**
 * Return what to do at a time before the end of the session.
 *
 * @param {number | null} ends When the session ends, in milliseconds since 1970, or null if this is not known.
 * @param {number} now The current time, in the same unit.
 * @param {number} warned The smallest time before the end at which the tab has warned, or Infinity.
 * @param {number[]} [times] The times before the end at which to warn, the latest first.
 * @returns {{warn: number, save: boolean}} "warn" is the time before the end to warn about, or 0.
 */
export function before(ends, now, warned, times = WARN_BEFORE) {
  const left = ends === null ? Infinity : ends - now;
  if (left <= 0) return {warn: 0, save: false};
  const due = times.find(each => left <= each);
  return {warn: due !== undefined && due < warned ? due : 0, save: left <= SAVE_BEFORE};
}

/** Return the times before the end of an idle session at which to warn. None is in the first half of the idle time. */
export function idleTimes(limit) {
  const times = WARN_BEFORE.filter(each => each <= limit / 2);
  return times.length ? times : [limit / 2];
}

/**
 * Return the state of a session with the browser's times, in milliseconds since 1970.
 *
 * @param {object} state What the notebook server says; see hpchub.remote.session_monitor.
 * @param {number} now The time at which it arrived.
 * @returns {object} The state, with "ends", "cause" ("limit" or "drain"), "idleEnds" and "idleLimit".
 */
export function timed(state, now) {
  const offset = now - state.now * 1000;
  const here = seconds => (typeof seconds === 'number' ? seconds * 1000 + offset : null);
  // The hub's clock may differ from the node's.
  const isDrain = (state.notices ?? []).some(
    each => typeof each.stop_at === 'number' && Math.abs(each.stop_at - state.ends_at) < 120,
  );
  return {
    ...state,
    ends: here(state.ends_at),
    cause: isDrain ? 'drain' : 'limit',
    idleEnds: here(state.idle?.ends_at),
    idleLimit: typeof state.idle?.limit === 'number' ? state.idle.limit * 1000 : null,
  };
}

/** Return a number of minutes, at least one. */
function inMinutes(milliseconds) {
  return Math.max(1, Math.round(milliseconds / 60_000));
}

/**
 * Return the warning before the end of a session.
 *
 * @param {number} ends When the session ends, in milliseconds since 1970.
 * @param {number} now The current time.
 * @param {'limit' | 'drain'} [cause] Why it ends.
 * @param {string} [locale] The language of the time of day.
 */
export function warning(ends, now, cause = 'limit', locale = own()) {
  return {
    title: ngettext(
      'Your session ends at {time}, in {count} minute',
      'Your session ends at {time}, in {count} minutes',
      inMinutes(ends - now),
      {time: clock(ends, locale)},
    ),
    text: together(
      cause === 'drain'
        ? gettext('The service then stops it because of a maintenance.')
        : gettext('It then reaches its time limit.'),
      gettext('This tab saves your open documents shortly before.'),
      gettext('Variables and running computations are lost at the end: write results to files.'),
    ),
    action: '',
  };
}

/** Return the warning before the end of a session that nobody uses; see "warning". */
export function idleWarning(ends, now, limit, locale = own()) {
  return {
    title: ngettext(
      'Nobody uses this session. It ends at {time}, in {count} minute',
      'Nobody uses this session. It ends at {time}, in {count} minutes',
      inMinutes(ends - now),
      {time: clock(ends, locale)},
    ),
    text: together(
      ngettext(
        'A session of this profile may be idle for {count} minute.',
        'A session of this profile may be idle for {count} minutes.',
        inMinutes(limit),
      ),
      gettext('To keep it, press a key or the button.'),
      gettext('This tab saves your open documents before the end.'),
    ),
    action: 'keep',
  };
}

/** Return a size in GB with one digit, as the user writes it. */
function gigabytes(bytes, locale) {
  return (bytes / 2 ** 30).toLocaleString(locale, {minimumFractionDigits: 1, maximumFractionDigits: 1});
}

/** Return the time until the end in words. */
function timeLeft(milliseconds) {
  const left = Math.max(0, Math.floor(milliseconds / 60_000));
  const hours = Math.floor(left / 60);
  if (hours >= 48) return gettext('{days} d {hours} h left', {days: Math.floor(hours / 24), hours: hours % 24});
  if (hours) return gettext('{hours} h {minutes} min left', {hours, minutes: left % 60});
  return gettext('{minutes} min left', {minutes: left});
}

/** Return what the job uses of its memory. */
function memoryInUse(used, granted, locale) {
  const values = {used: gigabytes(used, locale), granted: granted ? gigabytes(granted, locale) : ''};
  return granted ? gettext('memory {used} of {granted} GB', values) : gettext('memory {used} GB', values);
}

/** Return what the job uses of its cores. */
function coresInUse(cores, granted, locale) {
  const used = cores.toLocaleString(locale, {maximumFractionDigits: 1});
  if (!granted) return gettext('CPU {used} cores', {used});
  return ngettext('CPU {used} of {count} core', 'CPU {used} of {count} cores', granted, {used});
}

/** Return the details of a GPU. */
function gpuDetails({name, memory, total}, locale) {
  if (typeof memory !== 'number' || typeof total !== 'number') return gettext('GPU {name}.', {name});
  const values = {name, used: gigabytes(memory, locale), granted: gigabytes(total, locale)};
  return gettext('GPU {name}: {used} of {granted} GB.', values);
}

/** Return whether the name of a node is an address, which tells users nothing. */
function isAddress(node) {
  return node.includes(':') || !Number.isNaN(Number(node.replaceAll('.', '')));
}

/**
 * Return the line in the status bar.
 *
 * @param {object} state The state with the browser's times; see "timed".
 * @param {number} now The current time, in milliseconds since 1970.
 * @param {boolean} [isLost] Whether there is no connection.
 * @param {string} [locale] The language of numbers and times.
 * @returns {{text: string, title: string, urgent: boolean}} "title" has the details. What is not known is left out.
 */
export function statusLine(state, now, isLost = false, locale = own()) {
  if (isLost) {
    const title = gettext('The figures of the session are not known.');
    return {text: gettext('No connection to the session'), title, urgent: true};
  }
  const {job, usage = {}} = state;
  const parts = [];
  const details = [];
  const ends = [state.ends, state.idleEnds !== null && state.idleEnds - now < SOON_IDLE ? state.idleEnds : null];
  const end = Math.min(...ends.filter(each => each !== null));
  if (Number.isFinite(end)) parts.push(timeLeft(end - now));
  if (state.ends !== null) details.push(gettext('The session ends at {time}.', {time: date(state.ends, locale)}));
  if (state.idleLimit !== null) {
    details.push(
      ngettext(
        'It ends earlier if nobody uses it for {count} minute.',
        'It ends earlier if nobody uses it for {count} minutes.',
        inMinutes(state.idleLimit),
      ),
    );
  }
  if (job?.place) parts.push(gettext('in {place}', {place: job.place}));
  if (job?.node && !isAddress(job.node)) parts.push(gettext('node {node}', {node: job.node.split('.')[0]}));
  if (job?.id && !job.place) parts.push(gettext('job {job}', {job: job.id}));
  if (job) {
    const values = {profile: job.profile_name, cluster: job.cluster, place: job.place};
    details.push(
      job.place
        ? gettext('Profile {profile} in {place}.', values)
        : gettext('Profile {profile} on the cluster {cluster}.', values),
    );
  }
  if (typeof usage.memory === 'number') parts.push(memoryInUse(usage.memory, job?.memory, locale));
  if (typeof usage.cores === 'number') parts.push(coresInUse(usage.cores, job?.cores, locale));
  for (const gpu of usage.gpus ?? []) {
    parts.push(typeof gpu.load === 'number' ? gettext('GPU {load} %', {load: gpu.load}) : 'GPU');
    details.push(gpuDetails(gpu, locale));
  }
  const isFull = Boolean(job?.memory) && typeof usage.memory === 'number' && usage.memory > 0.9 * job.memory;
  if (isFull) {
    details.push(gettext('Almost all memory of the session is in use.'));
    details.push(gettext('If it needs more, it is ended.'));
  }
  return {text: parts.join(' · '), title: details.join('\n'), urgent: isFull || end - now <= WARN_BEFORE[1]};
}

/** Return a date and a time as the user writes them. */
function date(milliseconds, locale) {
  return new Date(milliseconds).toLocaleString(locale, {dateStyle: 'medium', timeStyle: 'short'});
}

/** Return when a drain is, in one sentence. */
function period({from, until, active}, locale) {
  const values = {from: date(from * 1000, locale), until: until === null ? '' : date(until * 1000, locale)};
  if (until === null) {
    return active
      ? gettext('It lasts until further notice.')
      : gettext('It lasts from {from} until further notice.', values);
  }
  return active ? gettext('It lasts until {until}.', values) : gettext('It lasts from {from} until {until}.', values);
}

/**
 * Return what the tab shows about drains and announcements that the user has not seen yet, or null.
 *
 * @param {object[] | undefined} notices What the hub says, see Notice.public in hpchub.model.notices.
 * @param {Set<string>} seen What the user has seen. This function adds what it returns.
 * @param {string} [locale] The language of the times.
 * @returns {{title: string, text: string, action: '' | 'home'} | null} The text is plain text.
 */
export function news(notices, seen, locale = own()) {
  const fresh = (notices ?? []).filter(each => {
    const key = `${each.key} ${each.message} ${each.active} ${each.ask} ${each.stop_at}`;
    return !seen.has(key) && seen.add(key);
  });
  if (!fresh.length) return null;
  const lines = fresh.map(each => {
    const stop =
      each.stop_at !== null &&
      gettext('At {time}, the service stops sessions that still run.', {time: date(each.stop_at * 1000, locale)});
    const {title, message, advice} = translated(each);
    return [title, together(each.kind === 'drain' && period(each, locale), ended(message ?? ''), advice, stop)];
  });
  const ask = fresh.some(each => each.ask);
  const action = ask ? 'home' : '';
  if (lines.length === 1) return {title: lines[0][0], text: lines[0][1], action};
  return {title: gettext('Announcements'), text: lines.map(parts => parts.join(': ')).join(' '), action};
}

/** Return what the tab says after it has connected again. */
export function connected(renewed, saved, failed) {
  const sentences = [];
  if (saved) sentences.push(ngettext('{count} document is saved.', '{count} documents are saved.', saved));
  if (failed.length) {
    sentences.push(gettext('Not saved yet: {documents}.', {documents: failed.join(', ')}));
    sentences.push(gettext('Your changes are still in this tab. Save again.'));
  }
  if (renewed) sentences.push(gettext('Variables of the former session are gone: run the cells that you need again.'));
  return {
    title: renewed ? gettext('This tab is connected to your new session') : gettext('This tab is connected again'),
    text: together(...sentences),
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
  const remark = gettext('unsaved changes of {time} UTC', {time: stamp});
  return `${stem} (${remark})${dot > slash ? path.slice(dot) : ''}`;
}

/** Return the question about drafts of an earlier tab. */
export function found(drafts, locale = own()) {
  const documents = drafts.map(each => `${each.path} (${new Date(each.at).toLocaleString(locale)})`).join(', ');
  return {
    title: gettext('Some changes were not saved'),
    text: gettext('This browser has kept them: {documents}.', {documents}),
    action: '',
  };
}

/** Return how long to wait before the next draft of a document, in milliseconds, after one that took so long. */
export function pause(duration) {
  return Math.min(Math.max(2_000, 20 * duration), 60_000);
}
