// node draw.mjs < {chromium, drawings: [{board, view, width, file}]}: draws each dashboard into a PNG file, and prints how
// many points each query of each of its panels has.

import { writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { json } from 'node:stream/consumers';

import { build } from 'esbuild';
import puppeteer from 'puppeteer-core';

const STYLE = `
  body { margin: 0; padding: 12px 16px; background: #111217; }
  header { display: flex; max-width: calc(100vw - 32px); gap: 24px; align-items: baseline; margin-bottom: 12px; color: #ccccdc; font-size: 13px; }
  header h1 { font-size: 18px; margin: 0 auto 0 0; }
  main { position: relative; }
  .heading { display: flex; align-items: center; color: #ccccdc; font-size: 14px; font-weight: 500; }
  .empty { display: flex; height: 100%; align-items: center; justify-content: center; color: #ccccdca6; }
`;

async function bundle() {
  const made = await build({
    entryPoints: ['page.tsx'],
    bundle: true,
    write: false,
    outdir: 'out',
    jsx: 'automatic',
    loader: { '.ttf': 'empty', '.woff': 'dataurl', '.woff2': 'dataurl', '.svg': 'dataurl' },
    define: { 'process.env.NODE_ENV': '"production"', global: 'window' },
    logLevel: 'error',
  });
  const text = (end) => made.outputFiles.find((file) => file.path.endsWith(end)).text;
  return { script: text('.js'), style: text('.css') };
}

// A page with a separate origin, because Grafana's components read the browser's storage.
async function serve({ style }) {
  const html = `<!doctype html><head><style>${style}${STYLE}</style></head><body><div id="root"></div></body>`;
  const server = createServer((_, response) => response.setHeader('Content-Type', 'text/html').end(html));
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  return server;
}

async function draw(browser, url, script, { file, ...drawing }) {
  const page = await browser.newPage();
  const errors = [];
  page.on('pageerror', (error) => errors.push(String(error.stack ?? error)));
  await page.setViewport({ width: drawing.width + 32, height: 800 });
  await page.goto(url);
  // components measure texts once: with another font they would cut them off
  await page.evaluate(`Promise.all(['400 14px Inter', '500 14px Inter'].map((font) => document.fonts.load(font)))`);
  await page.evaluate((value) => { window.drawing = value; }, drawing);
  await page.addScriptTag({ content: script });
  await page.waitForFunction('window.drawn', { timeout: 60000 }).catch((error) => errors.push(error.message));
  if (errors.length) {
    throw new Error(`${drawing.board.title}: ${errors.join('\n')}`);
  }
  const { error, points } = await page.evaluate('window.drawn');
  if (error) {
    throw new Error(`${drawing.board.title}: ${error}`);
  }
  const height = await page.evaluate('document.documentElement.scrollHeight');
  await page.setViewport({ width: drawing.width + 32, height }); // what lies outside of the window is not painted
  await page.evaluate('document.fonts.ready');
  await new Promise((resolve) => setTimeout(resolve, 1500)); // the curves are drawn after React has rendered
  if (errors.length) {
    throw new Error(`${drawing.board.title}: ${errors.join('\n')}`);
  }
  writeFileSync(file, await page.screenshot({ fullPage: true }));
  await page.close();
  return points;
}

const { drawings, chromium } = await json(process.stdin);
const parts = await bundle();
const server = await serve(parts);
const browser = await puppeteer.launch({ executablePath: chromium, args: ['--no-sandbox', '--disable-gpu'] });
const points = {};
try {
  for (const drawing of drawings) {
    points[drawing.board.title] = await draw(browser, `http://127.0.0.1:${server.address().port}/`, parts.script, drawing);
  }
} finally {
  await browser.close();
  server.close();
}
console.log(JSON.stringify(points));
