// The texts of the extension in the user's language. The English text is the name of each translation. The translations
// come from the catalogue of the whole service.

/** The cookie with the language that the user has chosen on the pages of the hub. */
const COOKIE = /(?:^|;\s*)hpchub-language=([A-Za-z_-]+)/;

const ANSWER = 10_000; // milliseconds that the answer with the translations may take

/** The language of the texts: its code, the translations, and how numbers and times are written. */
const language = {code: 'en', messages: {}, locale: undefined};

/** Return the code of the language of the texts, for the attribute "lang". */
export function code() {
  return language.code;
}

/** Return the language tag for numbers and times, or undefined for the browser's own. */
export function locale() {
  return language.locale;
}

/**
 * Return a text in the user's language.
 *
 * @param {string} text The English text, with placeholders such as "{name}".
 * @param {object} [values] The values of the placeholders.
 */
export function gettext(text, values = {}) {
  return filled(language.messages[text] ?? text, values);
}

/**
 * Return a text with a number in the user's language.
 *
 * @param {string} one The English text for the number 1.
 * @param {string} many The English text for other numbers.
 * @param {number} count The number.
 * @param {object} [values] The values of the placeholders. "count" is the number.
 */
export function ngettext(one, many, count, values = {}) {
  const forms = language.messages[one];
  const text = forms?.[new Intl.PluralRules(language.code).select(count)] ?? forms?.other ?? (count === 1 ? one : many);
  return filled(text, {count, ...values});
}

/** Return a text with its values. A placeholder without a value stays visible. */
function filled(text, values) {
  return text.replace(/\{(\w+)\}/g, (placeholder, name) => String(values[name] ?? placeholder));
}

/**
 * Return the language of the texts.
 *
 * @param {string[]} available The codes of the languages that have translations.
 * @param {string[]} wanted The languages that the user wants, the most important first.
 * @param {string} fallback The site's language.
 * @returns {{code: string, locale: string | undefined}} The language, and how numbers and times are written in it.
 */
export function choose(available, wanted, fallback) {
  const tags = wanted.map(each => each.replaceAll('_', '-'));
  const base = tag => tag.split('-')[0].toLowerCase();
  const found = tags.find(tag => available.includes(base(tag)));
  const chosen = found ? base(found) : fallback;
  const same = tags.filter(tag => base(tag) === chosen);
  return {code: chosen, locale: same.find(tag => tag.includes('-')) ?? same[0]};
}

/** Use a language from now on. */
export function use({code: chosen, locale: tag}, messages) {
  Object.assign(language, {code: chosen, messages, locale: tag});
}

/**
 * Read the translations, and use the user's language. Without an answer, the texts stay English.
 *
 * @param {typeof fetch} send Sends a request.
 * @param {string} [own] The language that the user has chosen in JupyterLab, or empty.
 */
export async function load(send, own = '') {
  try {
    const answer = await send(new URL('messages.json', import.meta.url), {signal: AbortSignal.timeout(ANSWER)});
    const {fallback, languages} = await answer.json();
    const wanted = [own, document.cookie.match(COOKIE)?.[1], ...navigator.languages].filter(Boolean);
    const chosen = choose(Object.keys(languages), wanted, fallback);
    use(chosen, languages[chosen.code]);
  } catch {
    // The session may have ended while this page was loading.
  }
}
