// NbClassic loads this file. The directory of the scripts has another name in each version.

export {start} from './static/classic.js';
