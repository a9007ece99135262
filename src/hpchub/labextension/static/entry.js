// The entry point of the extension, in the form that JupyterLab expects of a prebuilt extension. It is written by hand,
// because the extension needs no build step. JupyterLab loads this file before everything else.
(() => {
  'use strict';
  const plugins = new URL('plugin.js', document.currentScript.src);

  // JupyterLab does not open without these. A browser can forbid them, or have no space left: then this tab keeps the
  // values in its memory.
  for (const name of ['localStorage', 'sessionStorage']) {
    try {
      window[name].setItem('hpchub-test', 'x');
      window[name].removeItem('hpchub-test');
    } catch {
      const values = new Map();
      try {
        for (const [key, value] of Object.entries(window[name])) values.set(key, value);
      } catch {
        // The browser forbids reading too.
      }
      const storage = {
        get length() {
          return values.size;
        },
        key: index => [...values.keys()][index] ?? null,
        getItem: key => values.get(String(key)) ?? null,
        setItem: (key, value) => void values.set(String(key), String(value)),
        removeItem: key => void values.delete(String(key)),
        clear: () => values.clear(),
      };
      Object.defineProperty(window, name, {configurable: true, value: storage});
    }
  }

  // A page's token belongs to one session. With it, this tab could not use the next session. JupyterLab therefore uses
  // only the cookies, which the browser renews.
  const config = document.getElementById('jupyter-config-data');
  if (config) {
    const options = JSON.parse(config.textContent);
    if (options.hubPrefix && options.token) {
      config.textContent = JSON.stringify({...options, token: ''});
    }
  }

  // Every part of JupyterLab sends its requests with the function that it finds here.
  const send = window.fetch.bind(window);
  const watch = {send, fetch: (input, init) => send(input, init)};
  window.fetch = (input, init) => watch.fetch(input, init);

  let shared = {};
  const load = async name => {
    const [version] = Object.values(shared[name] ?? {});
    if (!version) throw new Error(`JupyterLab does not provide ${name}`);
    return (await version.get())();
  };
  const container = {
    init: scope => {
      shared = scope;
    },
    get: async () => {
      const {default: create} = await import(plugins);
      const lab = ['launcher', 'settingregistry', 'statedb', 'statusbar', 'ui-components'].map(name => `@jupyterlab/${name}`);
      const optional = [...lab, '@lumino/widgets'];
      const plugin = create(
        watch,
        await load('@jupyterlab/application'),
        await load('@jupyterlab/docmanager'),
        Object.assign({}, ...(await Promise.all(optional.map(name => load(name).catch(() => ({})))))),
      );
      return () => ({__esModule: true, default: plugin});
    },
  };
  (window._JUPYTERLAB ??= {})['@hpchub/lab'] = container;
})();
