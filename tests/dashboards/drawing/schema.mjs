// node schema.mjs: prints JSON schemas of the types in schema.ts.

import { createGenerator } from 'ts-json-schema-generator';

const TYPES = ['board', 'panel', 'bargauge', 'stat', 'table', 'timeseries', 'tableField', 'timeseriesField'];
const schema = (type) => createGenerator({ path: 'schema.ts', tsconfig: 'tsconfig.json', type, skipTypeCheck: true }).createSchema(type);
console.log(JSON.stringify(Object.fromEntries(TYPES.map((type) => [type, schema(type)]))));
