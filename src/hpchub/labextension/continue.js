// The page on which a start ends that began in a tab with open documents. That tab goes on, so this one is not needed.

const link = document.getElementById('open');
let opener = null;
try {
  // Only the tab with the documents has opened this one, and only a page of the same session can be read.
  if (window.opener && !window.opener.closed && window.opener.document.getElementById('jupyter-config-data')) {
    opener = window.opener;
  }
} catch {
  // The tab shows a page of another host by now.
}
if (opener) {
  opener.focus();
  window.close(); // the browser permits this, because a script has opened the tab
} else {
  location.replace(link.href);
}

// A browser that did not close the tab shows this.
const {code, gettext, load} = await import('./static/gettext.js');
await load(fetch);
document.documentElement.lang = code();
document.title = gettext('Your new session runs');
document.getElementById('title').textContent = document.title;
document.getElementById('text').textContent = gettext(
  'The tab with your documents connects to it and saves your changes. You can close this tab.',
);
link.textContent = gettext('Open the session in this tab');
