// The playground page in a real browser: the folder of the packages as first argument. With the
// folder of the pages as second, it is served by the hub in memory, under the same policy as the
// server does it; with addresses `http://client/ http://admin` as second and third, by a server.
// Another argument names a folder for screenshots.
//
// Ends with 0 and `all passed` when everything was as it must be.

import assert from 'node:assert/strict';
import { createRequire } from 'node:module';
import { MockHub } from './mock_hub.mjs';

const [packages, target, ...more] = process.argv.slice(2);
const require = createRequire(`${packages}/`);
const { chromium } = require('playwright-core');
const admin = target.startsWith('http:') ? more.shift() : null;
const [pictures] = more;
const hub = admin ? null : await MockHub.start(require('ws'), { pages: target });
const address = admin ? target : hub.url.replace('ws:', 'http:').replace('/ws', '/');
const browser = await chromium.launch({
  executablePath: '/usr/bin/chromium',
  headless: true,
  args: ['--no-sandbox', '--disable-gpu', '--no-first-run', '--disable-background-networking'],
});
const complaints = [];

async function open(name, options) {
  const page = await (await browser.newContext(options)).newPage();
  page.on('console', (message) => message.type() === 'error' && complaints.push(message.text()));
  page.on('pageerror', (error) => complaints.push(String(error)));
  await page.goto(`${address}?channel=chat:demo&name=${name}`);
  await page.waitForSelector('#state[data-state=open]');
  await page.getByText('you are in chat:demo').waitFor();
  return page;
}

async function say(page, text) {
  await page.getByLabel('Message', { exact: true }).fill(text);
  await page.getByRole('button', { name: 'Send' }).click();
}

const lines = (page) =>
  page.$$eval('#messages li:not(.note)', (all) => all.map((one) => one.lastChild.textContent));

/** The channel's history is gone; what is published from now on may stay. */
async function forget() {
  if (hub) {
    hub.historyMax = 1;
    return;
  }
  const headers = { 'content-type': 'application/json' };
  const path = `${admin}/v1/channels/chat%3Ademo/history`;
  const { status } = await fetch(path, { method: 'DELETE', headers });
  assert.equal(status, 200);
}

async function picture(page, name) {
  if (!pictures) return;
  for (const colorScheme of ['light', 'dark']) {
    await page.emulateMedia({ colorScheme });
    await page.screenshot({ path: `${pictures}/${name}-${colorScheme}.png`, fullPage: true });
  }
}

try {
  const ann = await open('Ann', { viewport: { width: 1100, height: 800 } });
  const phone = { width: 390, height: 844 };
  const bob = await open('Bob', { viewport: phone, isMobile: true, hasTouch: true });
  const markup = '<b>not bold</b> <img src=x onerror=alert(1)>';
  await say(ann, 'Hello Bob');
  await bob.getByText('Hello Bob').waitFor();
  await say(bob, markup);
  await ann.getByText(markup).waitFor();
  assert.equal(await ann.locator('#messages img, #messages b').count(), 0, 'text stays text');
  await ann.locator('#members').getByText('Bob', { exact: true }).waitFor();

  await ann.getByRole('button', { name: 'Cut my connection' }).click();
  await ann.waitForSelector('#state[data-state=waiting]');
  for (const text of ['one', 'two', 'three']) await say(bob, text);
  await say(ann, 'mine, while away');
  await ann.waitForSelector('#recovery.good');
  assert.equal(await ann.textContent('#recovery'),
    'back: 3 messages were recovered, none was missed');
  await ann.waitForSelector('#messages li.waiting', { state: 'detached' });
  const all = ['Hello Bob', markup, 'one', 'two', 'three', 'mine, while away'];
  await bob.getByText('mine, while away').waitFor();
  assert.deepEqual(await lines(ann), all);
  assert.deepEqual(await lines(bob), all);

  await ann.waitForFunction(() => document.getElementById('max').textContent.endsWith(' ms'));
  for (const [page, name] of [[ann, 'recovered'], [bob, 'recovered-phone']]) {
    await picture(page, name);
  }
  if (hub) await forget();
  await ann.getByRole('button', { name: 'Cut my connection' }).click();
  await ann.waitForSelector('#state[data-state=waiting]');
  for (const text of ['four', 'five']) await say(bob, text);
  await bob.waitForSelector('#messages li.waiting', { state: 'detached' });
  if (!hub) await forget();
  await ann.waitForSelector('#recovery.bad');
  await ann.getByText('messages are gone: 7 to 8').waitFor();

  for (const [page, name] of [[ann, 'desktop'], [bob, 'phone']]) {
    const [wide, room] = await page.evaluate(() => [document.documentElement.scrollWidth,
      innerWidth]);
    assert.ok(wide <= room, `${name}: nothing is cut off, ${wide} of ${room}`);
    await picture(page, name);
  }
  assert.deepEqual(complaints, []);
} finally {
  await browser.close();
  await hub?.stop();
}
console.log('all passed');
