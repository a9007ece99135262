// The page on which a start ends that began in a tab with open documents. That tab goes on, so this one is not needed.
'use strict';
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
  location.replace(document.getElementById('open').href);
}
