// Keeps a hosted page, so that it opens without a connection. Export puts VERSION, the hash of the
// page, and FILES, what to keep, before these lines.

const KIND = `edge-mnist ${registration.scope} `; // one host may hold several pages
const NAME = KIND + VERSION;

addEventListener("install", (event) => {
  event.waitUntil(caches.open(NAME).then((cache) => cache.addAll(FILES)));
  skipWaiting();
});

addEventListener("activate", (event) => {
  const isFormer = (name) => name.startsWith(KIND) && name !== NAME;
  const remove = (names) => Promise.all(names.filter(isFormer).map((name) => caches.delete(name)));
  event.waitUntil(caches.keys().then(remove).then(() => clients.claim()));
});

addEventListener("fetch", (event) => {
  const { method, url } = event.request;
  // index.html and a query change nothing; other pages below the same folder are not kept.
  const asked = new Request(url.replace(/(index\.html)?([?#].*)?$/, ""), { method });
  const kept = caches.match(asked, { cacheName: NAME });
  event.respondWith(kept.then((known) => known ?? fetch(event.request)));
});
