// A real OpenID Connect provider on loopback, for tests. Whoever comes to sign in is who login_hint says, or alice.
//
// It prints one line of JSON, {"issuer": URL, "admin": URL}, when it serves, and ends when its standard input does.
//
// The admin listener, POST alone:
//   /rotate             sign with a new key; the old ones stay in the key set
//   /withdraw           serve the newest key alone
//   /down, /up          close the issuer's port, with all its connections, and open it again
//   /keys?delay=MS      answer for the key set after so long; ?status=N: answer with that status instead
//   /count              how often the key set was asked for: {"keys": N}
//   /sign               an ID token from {"header": {...}, "claims": {...}}, both laid over what a good one holds, signed with the
//                       current key: {"token": TEXT}. "alg" in the header is what it says; the key signs with RS256 unless it can.

import * as http from 'node:http';
import * as crypto from 'node:crypto';
import { Provider } from 'oidc-provider';
import { exportJWK, generateKeyPair, SignJWT } from 'jose';

const clientID = 'lychgate-cli';
const cookieKeys = [crypto.randomBytes(16).toString('hex')];

const state = { keys: [], serial: 0, provider: null, issuer: '', fetches: 0, delay: 0, status: 0 };

// client is a program on people's machines: no secret, a loopback address of any port (RFC 8252 section 7.3), and the device
// flow (RFC 8628). Whoever asks for offline_access, with consent, gets a refresh token that is good for one time.
function client(id) {
  return {
    client_id: id,
    application_type: 'native',
    token_endpoint_auth_method: 'none',
    grant_types: ['authorization_code', 'refresh_token', 'urn:ietf:params:oauth:grant-type:device_code'],
    response_types: ['code'],
    redirect_uris: ['http://127.0.0.1/', 'http://127.0.0.1/callback', 'http://[::1]/callback'],
  };
}

async function addKey() {
  const { privateKey } = await generateKeyPair('RS256', { modulusLength: 2048, extractable: true });
  state.serial += 1;
  const jwk = { ...await exportJWK(privateKey), kid: `k${state.serial}`, use: 'sig', alg: 'RS256' };
  state.keys = [jwk, ...state.keys];
}

// subject is not the name, as at issuers people have: a mapping by name would show.
const subject = (login) => `u-${login}`;

function build() {
  state.provider = new Provider(state.issuer, {
    jwks: { keys: state.keys },
    clients: [client(clientID), client('another-app')],
    cookies: { keys: cookieKeys },
    claims: { openid: ['sub'], profile: ['preferred_username'] },
    conformIdTokenClaims: false,
    features: { devInteractions: { enabled: false }, deviceFlow: { enabled: true } },
    interactions: { url: (_, interaction) => `/interaction/${interaction.uid}` },
    findAccount: async (_, id) => ({ accountId: id, claims: async () => ({ sub: id, preferred_username: id.slice(2) }) }),
    renderError: async (ctx, out) => { ctx.type = 'text'; ctx.body = JSON.stringify(out); },
  });
}

// interact does what a person would: sign in, then consent to what is asked for.
async function interact(req, res) {
  const { provider } = state;
  const { prompt, params, session } = await provider.interactionDetails(req, res);
  if (prompt.name === 'login') {
    await provider.interactionFinished(req, res, { login: { accountId: subject(params.login_hint || 'alice') } });
    return;
  }
  const grant = new provider.Grant({ accountId: session.accountId, clientId: params.client_id });
  grant.addOIDCScope(params.scope);
  await provider.interactionFinished(req, res, { consent: { grantId: await grant.save() } }, { mergeWithLastSubmission: true });
}

async function serve(req, res) {
  const { pathname } = new URL(req.url, state.issuer);
  if (pathname.startsWith('/interaction/')) {
    await interact(req, res);
    return;
  }
  if (pathname === '/jwks') {
    state.fetches += 1;
    await new Promise((resolve) => { setTimeout(resolve, state.delay); });
    if (state.status) {
      res.writeHead(state.status).end();
      return;
    }
  }
  await state.provider.callback()(req, res);
}

const guarded = (handler) => (req, res) => handler(req, res).catch((err) => {
  console.error(err);
  res.writeHead(500).end(String(err));
});

const front = http.createServer(guarded(serve));
const listen = (server, port) => new Promise((resolve, reject) => {
  server.once('error', reject);
  server.listen(port, '127.0.0.1', () => resolve(server.address().port));
});

async function sign({ header = {}, claims = {} }) {
  const now = Math.floor(Date.now() / 1000);
  const all = { iss: state.issuer, aud: clientID, sub: subject('alice'), iat: now, exp: now + 300, ...claims };
  const [jwk] = state.keys;
  const protectedHeader = { alg: 'RS256', kid: jwk.kid, typ: 'JWT', ...header };
  if (protectedHeader.alg.startsWith('RS') || protectedHeader.alg.startsWith('PS')) {
    const { alg, ...key } = jwk;
    return new SignJWT(all).setProtectedHeader(protectedHeader).sign(await crypto.subtle.importKey(
      'jwk', { ...key, use: undefined },
      { name: protectedHeader.alg.startsWith('RS') ? 'RSASSA-PKCS1-v1_5' : 'RSA-PSS', hash: `SHA-${protectedHeader.alg.slice(2)}` }, false, ['sign'],
    ));
  }
  const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const text = `${part(protectedHeader)}.${part(all)}`;
  return `${text}.${crypto.sign('sha256', Buffer.from(text), crypto.createPrivateKey({ key: jwk, format: 'jwk' })).toString('base64url')}`;
}

const controls = {
  '/rotate': async () => { await addKey(); build(); },
  '/withdraw': async () => { state.keys = state.keys.slice(0, 1); build(); },
  '/down': () => new Promise((resolve) => { front.close(resolve); front.closeAllConnections(); }),
  '/up': async () => { await listen(front, Number(new URL(state.issuer).port)); },
  '/keys': async (query) => { state.delay = Number(query.get('delay') || 0); state.status = Number(query.get('status') || 0); },
  '/count': async () => ({ keys: state.fetches }),
  '/sign': async (_, body) => ({ token: await sign(JSON.parse(body)) }),
};

const admin = http.createServer(guarded(async (req, res) => {
  const { pathname, searchParams } = new URL(req.url, 'http://admin');
  const control = req.method === 'POST' && controls[pathname];
  if (!control) {
    res.writeHead(404).end();
    return;
  }
  let body = '';
  for await (const chunk of req) body += chunk;
  const answer = await control(searchParams, body);
  res.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify(answer ?? {}));
}));

state.issuer = `http://127.0.0.1:${await listen(front, 0)}`;
await addKey();
build();
const adminPort = await listen(admin, 0);
process.stdin.resume().on('end', () => process.exit(0));
console.log(JSON.stringify({ issuer: state.issuer, admin: `http://127.0.0.1:${adminPort}` }));
