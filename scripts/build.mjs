/** `npm run build`: every module of the filter, into build/. */
import { buildFilter } from "./setup.mjs";

buildFilter();
