// An extension of NbClassic, which loads the messages of the session from the extension of JupyterLab.

define(['base/js/namespace'], Jupyter => ({
  load_ipython_extension: async () => {
    const {start} = await import(`${document.body.dataset.baseUrl}lab/extensions/@hpchub/lab/classic.js`);
    await start(Jupyter);
  },
}));
