// @connectrpc/connect-node with its gRPC transport, from descriptors alone: a program as asked.py says.
"use strict";
const { createFileRegistry, fromBinary, toBinary } = require("@bufbuild/protobuf");
const { FileDescriptorSetSchema } = require("@bufbuild/protobuf/wkt");
const { ConnectError, createClient } = require("@connectrpc/connect");
const { compressionGzip, createGrpcTransport, Http2SessionManager } = require("@connectrpc/connect-node");
const work = require("./work.cjs");

const registry = createFileRegistry(fromBinary(FileDescriptorSetSchema, work.read("descriptors.bin")));
const service = registry.getService("latentserve.v1.EmbeddingService");
const baseUrl = `${work.ca ? "https" : "http"}://${work.target}`;
const pings = work.verb === "idle" && {
  pingIntervalMs: work.pingMs,
  pingTimeoutMs: work.pingTimeoutMs,
  pingIdleConnection: true,
};
const sessionManager = new Http2SessionManager(baseUrl, pings || {}, work.ca ? { ca: work.ca } : {});
const transport = createGrpcTransport({
  baseUrl,
  sessionManager,
  ...(work.verb === "gzip" && { sendCompression: compressionGzip, compressMinBytes: 0 }),
});
const client = createClient(service, transport);
const { embed: Embed, scoreStream: ScoreStream } = service.method;

const answered = async (ask) => {
  try {
    return [0, "", await ask()];
  } catch (thrown) {
    const error = ConnectError.from(thrown);
    return [error.code, error.rawMessage];
  }
};

const embed = (request, { timeoutMs, cancelMs }) =>
  answered(async () => {
    const stop = new AbortController();
    if (cancelMs) setTimeout(() => stop.abort(), cancelMs);
    const answer = await client.embed(fromBinary(Embed.input, request), { timeoutMs, signal: stop.signal });
    return toBinary(Embed.output, answer);
  });

const stream = (requests) =>
  answered(async () => {
    const answers = [];
    for await (const answer of client.scoreStream(given(requests))) answers.push(toBinary(ScoreStream.output, answer));
    return work.joined(answers);
  });

async function* given(requests) {
  for (const request of requests) yield fromBinary(ScoreStream.input, request);
}

work.run(embed, stream).then(() => sessionManager.abort());
