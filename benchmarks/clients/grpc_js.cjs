// @grpc/grpc-js with @grpc/proto-loader, from the .proto files in PROTOS: a program as asked.py says.
"use strict";
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");
const work = require("./work.cjs");

const SERVICE = "latentserve.v1.EmbeddingService";
const found = loader.loadSync("latentserve/v1/embedding.proto", { includeDirs: [process.env.PROTOS] });
const { Embed, ScoreStream } = found[SERVICE];
const options = {
  "grpc.max_receive_message_length": -1,
  "grpc.max_send_message_length": -1,
  "grpc.enable_retries": 0, // a call that was lost is to be seen
  ...(work.verb === "gzip" && { "grpc.default_compression_algorithm": grpc.compressionAlgorithms.gzip }),
  ...(work.verb === "idle" && {
    "grpc.keepalive_time_ms": work.pingMs,
    "grpc.keepalive_timeout_ms": work.pingTimeoutMs,
    "grpc.keepalive_permit_without_calls": 1,
  }),
};
const credentials = work.ca ? grpc.credentials.createSsl(work.ca) : grpc.credentials.createInsecure();
const client = new (grpc.loadPackageDefinition(found).latentserve.v1.EmbeddingService)(work.target, credentials, options);

const embed = (request, { timeoutMs, cancelMs }) =>
  new Promise((resolve) => {
    const options = timeoutMs ? { deadline: Date.now() + timeoutMs } : {};
    const call = client.Embed(Embed.requestDeserialize(request), options, (error, answer) =>
      resolve(error ? [error.code, error.details] : [0, "", Embed.responseSerialize(answer)]),
    );
    if (cancelMs) setTimeout(() => call.cancel(), cancelMs);
  });

const stream = (requests) =>
  new Promise((resolve) => {
    const answers = [];
    const call = client.ScoreStream();
    call.on("data", (answer) => answers.push(ScoreStream.responseSerialize(answer)));
    call.on("error", (error) => resolve([error.code, error.details]));
    call.on("end", () => resolve([0, "", work.joined(answers)])); // after an error this changes nothing
    send(call, requests);
  });

const send = async (call, requests) => {
  for (const request of requests) {
    if (!call.write(ScoreStream.requestDeserialize(request))) {
      await new Promise((resolve) => call.once("drain", resolve));
    }
  }
  call.end();
};

work.run(embed, stream).then(() => client.close());
