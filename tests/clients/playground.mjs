// The playground page in a real browser: the folder of the packages as first argument. With the
// folder of the pages as second, it is served by the hub in memory, under the same policy as the
// server does it; with addresses `http://client/ http://admin` as second and third, by a server; an
// argument `token=TOKEN` says that this server asks for one. Another argument names a folder for
// screenshots.
//
// Ends with 0 and `all passed` when everything was as it must be.

import assert from 'node:assert/strict';
import { createRequire } from 'node:module';
import { MockHub } from './mock_hub.mjs';

const [packages, target, ...more] = process.argv.slice(2);
const require = createRequire(`${packages}/`);
const { chromium } = require('playwright-core');
const admin = target.startsWith('http:') ? more.shift() : null;
const token = more[0]?.startsWith('token=') ? more.shift().slice('token='.length) : null;
const [pictures] = more;
// As behind a proxy that serves others as well.
const prefix = '/some/path';
const hub = admin ? null : await MockHub.start(require('ws'), { pages: target, prefix });
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
  if (token) await signIn(page);
  await page.waitForSelector('#state[data-state=open]');
  await page.getByText('you are in chat:demo').waitFor();
  return page;
}

/** Without a token, then with a bad one, then with a good one. */
async function signIn(page) {
  const field = page.getByLabel('Token');
  await field.waitFor();
  assert.equal(await page.textContent('#state'), 'not signed in');
  assert.ok(await page.locator('#columns').isHidden() && await page.locator('#problem').isHidden());
  await field.fill('bad');
  await page.getByRole('button', { name: 'Connect' }).click();
  await page.getByText(/^authentication failed/).waitFor();
  assert.equal(await page.textContent('#state'), 'not signed in');
  await field.fill(token);
  await page.getByRole('button', { name: 'Connect' }).click();
  await page.waitForSelector('#state[data-state=open]');
  assert.ok(await page.locator('#sign-in').isHidden() && await page.locator('#problem').isHidden());
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
  const ann = await open('Ann', { viewport: { width: 1280, height: 800 } });
  const phone = { width: 390, height: 844 };
  const bob = await open('Bob', { viewport: phone, isMobile: true, hasTouch: true });
  const markup = '<b>not bold</b> <img src=x onerror=alert(1)>';
  await say(ann, 'Hello Bob');
  await bob.getByText('Hello Bob').waitFor();
  await say(bob, markup);
  await ann.getByText(markup).waitFor();
  assert.equal(await ann.locator('#messages img, #messages b').count(), 0, 'text stays text');
  const named = (page, name) => page.locator('#members').getByText(name, { exact: true }).waitFor();
  // With a token both are the same user.
  if (!token) await Promise.all([named(ann, 'Bob'), named(bob, 'Ann')]);
  // What the page is about is in view, without scrolling.
  await bob.evaluate(() => scrollTo(0, 0));
  for (const [page, things] of [[ann, ['#cut', '#say', 'footer']], [bob, ['#cut', '#say']]]) {
    for (const thing of things) {
      const { y, height } = await page.locator(thing).boundingBox();
      assert.ok(y + height <= page.viewportSize().height, `${thing} is in view`);
    }
  }

  await ann.getByRole('button', { name: 'Cut my connection' }).click();
  await ann.waitForSelector('#state[data-state=waiting]');
  await ann.getByText(/^reconnecting in 2\.\d s$/).waitFor();
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
  if (!token) await Promise.all([named(ann, 'Bob'), named(bob, 'Ann')]);

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
  await ann.getByText(/^messages are lost: \d+ to \d+$/).waitFor();

  for (const [page, name] of [[ann, 'desktop'], [bob, 'phone']]) {
    const [wide, room] = await page.evaluate(() => [document.documentElement.scrollWidth,
      innerWidth]);
    assert.ok(wide <= room, `${name}: nothing is cut off, ${wide} of ${room}`);
    await picture(page, name);
  }
  assert.deepEqual(complaints, []);
  if (hub) assert.equal(hub.lastUrl, `${prefix}/ws`);
} finally {
  await browser.close();
  await hub?.stop();
}
console.log('all passed');
