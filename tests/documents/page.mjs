// An example page in a real browser: folder of the packages, address and port to serve the page at,
// and its file as arguments. Prints what the page logs and, at last, its text, until it is ended.

import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { createRequire } from 'node:module';

const [packages, address, port, file] = process.argv.slice(2);
const { chromium } = createRequire(`${packages}/`)('playwright-core');

const body = await readFile(file, 'utf8');
const browser = await chromium.launch({
  executablePath: '/usr/bin/chromium',
  headless: true,
  args: ['--no-sandbox', '--disable-gpu', '--no-first-run', '--disable-background-networking'],
});
for (const signal of ['SIGTERM', 'SIGINT']) {
  process.on(signal, () => browser.close().finally(() => process.exit(0)));
}
const files = createServer((request, response) => {
  response.setHeader('content-type', 'text/html');
  response.end(body);
});
files.listen(Number(port), address);
await once(files, 'listening');
const page = await browser.newPage();
page.on('console', async (message) => {
  const values = await Promise.all(message.args().map((one) => one.jsonValue()));
  console.log(values.map((value) => JSON.stringify(value)).join(' '));
});
page.on('pageerror', (error) => console.error(String(error)));
await page.goto(`http://${address}:${port}/`);
await page.waitForFunction(() => document.body?.innerText.includes('hello'), null,
  { timeout: 0 });
console.log(await page.innerText('body'));
