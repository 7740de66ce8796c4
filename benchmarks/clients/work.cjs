// What a client program is told, and how it says what it heard: see asked.py.
"use strict";
const fs = require("node:fs");
const path = require("node:path");

const [target, folder, verb, number] = process.argv.slice(2);
const read = (name) => fs.readFileSync(path.join(folder, name));
let answers = 0;

exports.target = target;
exports.folder = folder;
exports.verb = verb;
exports.number = Number(number);
exports.read = read;
exports.ca = fs.existsSync(path.join(folder, "ca.pem")) ? read("ca.pem") : null;
exports.pingMs = 10000; // PING_SECONDS of asked.py
exports.pingTimeoutMs = 10000; // PING_TIMEOUT_SECONDS of asked.py
exports.sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

exports.heard = (code, message, answer = Buffer.alloc(0)) => {
  const name = `answer${answers++}.bin`;
  fs.writeFileSync(path.join(folder, name), answer);
  console.log([code, name, message.replace(/\s+/g, " ")].join("\t"));
};

exports.joined = (messages) =>
  Buffer.concat(
    messages.flatMap((message) => {
      const size = Buffer.alloc(4);
      size.writeUInt32LE(message.length);
      return [size, message];
    }),
  );

exports.parted = (data) => {
  const found = [];
  for (let start = 0; start < data.length; ) {
    const end = start + 4 + data.readUInt32LE(start);
    found.push(data.subarray(start + 4, end));
    start = end;
  }
  return found;
};

// The verbs, by what a client can do.
//   embed(request, {timeoutMs, cancelMs}): bytes in; a promise of [code, message, answer]
//   stream(requests): the same for ScoreStream, the answer being `joined`
exports.run = async (embed, stream) => {
  const small = () => embed(read("small.bin"), {});
  const hear = async (call) => exports.heard(...(await call));
  if (verb === "stream") return hear(stream(exports.parted(read("stream.bin"))));
  const alone = verb === "call" || verb === "gzip";
  if (!alone) await hear(small());
  if (verb === "many") {
    const calls = Array.from({ length: exports.number }, () => embed(read("request.bin"), {}));
    for (const call of calls) await hear(call);
    return;
  }
  if (verb === "idle") await exports.sleep(exports.number * 1000);
  else if (verb === "cancel") await hear(embed(read("request.bin"), { cancelMs: exports.number }));
  else if (verb === "deadline") await hear(embed(read("request.bin"), { timeoutMs: exports.number }));
  else await hear(embed(read("request.bin"), {}));
  if (!alone) await hear(small());
  if (verb === "idle") await exports.sleep(1000);
};
