// What answers mean, and what the tab tells its user. Nothing here has side effects.

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
const KEPT_HERE =
  'Your unsaved changes are kept in this tab only, because the storage of this browser is full or off. Do not close it.';
const CONNECTS = 'This tab then connects to it and saves your changes.';

/**
 * Return what the tab shows while it has no connection.
 *
 * @param {'login' | 'sign-on' | 'away'} state What the last answer of the notebook server means.
 * @param {object | null} session The hub's answer about the session, or null if the hub gave none.
 * @param {string} [locale] The language of the time of day.
 * @param {boolean} [stored] Whether the browser's storage keeps the unsaved changes.
 * @returns {{title: string, text: string, action: '' | 'start' | 'progress' | 'sign-in' | 'home'}}
 */
export function lost(state, session, locale, stored = true) {
  const kept = stored ? KEPT : KEPT_HERE;
  if (state === 'sign-on') {
    return {
      title: 'You are signed out',
      text: `Sign in again. ${kept} They are saved as soon as you are signed in.`,
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
        text: `${how}${kept} Continue in a new session, with the same profile or another one. ${CONNECTS}`,
        action: 'start',
      };
    }
    case 'starting':
      return {
        title: 'Your new session is starting',
        text: `${kept} This tab connects to the session as soon as it runs, and saves them.`,
        action: 'progress',
      };
    case 'running':
      return state === 'login'
        ? {
            title: 'Your session does not accept this tab',
            text: `Sign in again. ${kept} They are saved as soon as you are signed in.`,
            action: 'sign-in',
          }
        : {
            title: 'The connection to your session is interrupted',
            text: `${kept} This tab tries to connect again. If this takes more than a minute, look at your home page.`,
            action: 'home',
          };
    default:
      return state === 'login'
        ? {
            title: 'Your session does not accept this tab',
            text: `Perhaps the session has ended, or you are signed out. ${kept} Sign in again.`,
            action: 'sign-in',
          }
        : {
            title: 'Your session does not answer',
            text:
              `Perhaps it has ended, or the network is interrupted. ${kept} This tab tries to connect again. ` +
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

/** Return a number of minutes in words. */
function inMinutes(milliseconds) {
  const minutes = Math.max(1, Math.round(milliseconds / 60_000));
  return `${minutes} ${minutes === 1 ? 'minute' : 'minutes'}`;
}

const LOST_AT_END =
  'This tab saves your open documents shortly before. Variables and running computations are lost at the end: ' +
  'write results to files.';
const WHY = {
  limit: 'It then reaches its time limit.',
  drain: 'The service then stops it because of a maintenance.',
};

/**
 * Return the warning before the end of a session.
 *
 * @param {number} ends When the session ends, in milliseconds since 1970.
 * @param {number} now The current time.
 * @param {'limit' | 'drain'} [cause] Why it ends.
 * @param {string} [locale] The language of the time of day.
 */
export function warning(ends, now, cause = 'limit', locale = undefined) {
  return {
    title: `Your session ends at ${clock(ends, locale)}, in ${inMinutes(ends - now)}`,
    text: `${WHY[cause]} ${LOST_AT_END}`,
    action: '',
  };
}

/** Return the warning before the end of a session that nobody uses; see "warning". */
export function idleWarning(ends, now, limit, locale) {
  return {
    title: `Nobody uses this session. It ends at ${clock(ends, locale)}, in ${inMinutes(ends - now)}`,
    text:
      `A session of this profile may be idle for ${inMinutes(limit)}. To keep it, press a key or the button. ` +
      'This tab saves your open documents before the end.',
    action: 'keep',
  };
}

/** Return a size in GB with one digit, as the user's browser writes it. */
function gigabytes(bytes, locale) {
  return (bytes / 2 ** 30).toLocaleString(locale, {minimumFractionDigits: 1, maximumFractionDigits: 1});
}

/** Return the time until the end in words. */
function timeLeft(milliseconds) {
  const minutes = Math.max(0, Math.floor(milliseconds / 60_000));
  const hours = Math.floor(minutes / 60);
  if (hours >= 48) return `${Math.floor(hours / 24)} d ${hours % 24} h left`;
  return hours ? `${hours} h ${minutes % 60} min left` : `${minutes} min left`;
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
export function statusLine(state, now, isLost = false, locale = undefined) {
  if (isLost) return {text: 'No connection to the session', title: 'The figures of the session are not known.', urgent: true};
  const {job, usage = {}} = state;
  const parts = [];
  const details = [];
  const ends = [state.ends, state.idleEnds !== null && state.idleEnds - now < SOON_IDLE ? state.idleEnds : null];
  const end = Math.min(...ends.filter(each => each !== null));
  if (Number.isFinite(end)) parts.push(timeLeft(end - now));
  if (state.ends !== null) details.push(`The session ends at ${date(state.ends, locale)}.`);
  if (state.idleLimit !== null) details.push(`It ends earlier if nobody uses it for ${inMinutes(state.idleLimit)}.`);
  if (job?.node) parts.push(`node ${job.node.split('.')[0]}`);
  if (job?.id) parts.push(`job ${job.id}`);
  if (job) details.push(`Profile ${job.profile_name} on the cluster ${job.cluster}.`);
  if (typeof usage.memory === 'number') {
    const granted = job?.memory ? ` of ${gigabytes(job.memory, locale)}` : '';
    parts.push(`memory ${gigabytes(usage.memory, locale)}${granted} GB`);
  }
  if (typeof usage.cores === 'number') {
    const used = usage.cores.toLocaleString(locale, {maximumFractionDigits: 1});
    parts.push(job?.cores ? `CPU ${used} of ${job.cores} ${job.cores === 1 ? 'core' : 'cores'}` : `CPU ${used} cores`);
  }
  for (const gpu of usage.gpus ?? []) {
    const load = typeof gpu.load === 'number' ? ` ${gpu.load} %` : '';
    parts.push(`GPU${load}`);
    const memory =
      typeof gpu.memory === 'number' && typeof gpu.total === 'number'
        ? `: ${gigabytes(gpu.memory, locale)} of ${gigabytes(gpu.total, locale)} GB`
        : '';
    details.push(`GPU ${gpu.name}${memory}.`);
  }
  const isFull = Boolean(job?.memory) && typeof usage.memory === 'number' && usage.memory > 0.9 * job.memory;
  if (isFull) details.push('Almost all memory of the job is in use. If it needs more, the cluster ends the session.');
  return {text: parts.join(' · '), title: details.join('\n'), urgent: isFull || end - now <= WARN_BEFORE[1]};
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
