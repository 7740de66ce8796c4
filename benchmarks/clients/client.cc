// grpc++ with generated stubs: a program as asked.py says.
#include <grpcpp/grpcpp.h>

#include <chrono>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <iostream>
#include <iterator>
#include <string>
#include <thread>
#include <vector>

#include "latentserve/v1/embedding.grpc.pb.h"

namespace v1 = latentserve::v1;
using std::chrono::milliseconds;

struct Heard {
  grpc::Status status;
  std::string answer;
};

struct Work {
  std::string target, folder, verb;
  int number, answers = 0;

  std::string Read(const std::string& name) const {
    std::ifstream file(folder + "/" + name, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }

  void Hear(const Heard& heard) {
    std::string name = "answer" + std::to_string(answers++) + ".bin", message = heard.status.error_message();
    std::ofstream(folder + "/" + name, std::ios::binary) << heard.answer;
    for (char& letter : message)
      if (letter == '\n' || letter == '\t') letter = ' ';
    std::cout << heard.status.error_code() << '\t' << name << '\t' << message << std::endl;
  }
};

using Stub = v1::EmbeddingService::Stub;

Heard Embed(Stub& stub, const std::string& bytes, int timeout_ms, int cancel_ms, bool gzip) {
  v1::EmbedRequest request;
  v1::EmbedResponse response;
  request.ParseFromString(bytes);
  grpc::ClientContext context;
  if (timeout_ms) context.set_deadline(std::chrono::system_clock::now() + milliseconds(timeout_ms));
  if (gzip) context.set_compression_algorithm(GRPC_COMPRESS_GZIP);
  std::thread canceller;
  if (cancel_ms)
    canceller = std::thread([&] {
      std::this_thread::sleep_for(milliseconds(cancel_ms));
      context.TryCancel();
    });
  grpc::Status status = stub.Embed(&context, request, &response);
  if (cancel_ms) canceller.join();
  return {status, response.SerializeAsString()};
}

Heard Stream(Stub& stub, const std::string& joined) {
  grpc::ClientContext context;
  auto stream = stub.ScoreStream(&context);
  std::thread writer([&] {
    for (size_t start = 0; start < joined.size();) {
      uint32_t size;  // little-endian, as this machine is
      std::memcpy(&size, joined.data() + start, 4);
      v1::ScoreStreamRequest request;
      request.ParseFromString(joined.substr(start + 4, size));
      if (!stream->Write(request)) break;
      start += 4 + size;
    }
    stream->WritesDone();
  });
  std::string answers;
  v1::ScoreStreamResponse response;
  while (stream->Read(&response)) {
    std::string bytes = response.SerializeAsString();
    uint32_t size = bytes.size();
    answers.append(reinterpret_cast<const char*>(&size), 4).append(bytes);
  }
  writer.join();
  return {stream->Finish(), answers};
}

void Many(Work& work, Stub& stub) {
  const std::string request = work.Read("request.bin");
  std::vector<Heard> heard(work.number);
  std::vector<std::thread> callers;
  for (Heard& one : heard) callers.emplace_back([&] { one = Embed(stub, request, 0, 0, false); });
  for (std::thread& caller : callers) caller.join();
  for (const Heard& one : heard) work.Hear(one);
}

int main(int, char** arguments) {
  Work work{arguments[1], arguments[2], arguments[3], std::stoi(arguments[4])};
  grpc::ChannelArguments options;
  options.SetMaxReceiveMessageSize(-1);
  options.SetMaxSendMessageSize(-1);
  options.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);  // a call that was lost is to be seen
  const std::string& verb = work.verb;
  if (verb == "idle") {
    options.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 10000);    // PING_SECONDS of asked.py
    options.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 10000);  // PING_TIMEOUT_SECONDS
    options.SetInt(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
    options.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  }
  const std::string ca = work.Read("ca.pem");  // empty: plaintext
  auto credentials = ca.empty() ? grpc::InsecureChannelCredentials() : grpc::SslCredentials({ca, "", ""});
  auto stub = v1::EmbeddingService::NewStub(grpc::CreateCustomChannel(work.target, credentials, options));
  const std::string small = work.Read("small.bin"), request = work.Read("request.bin");
  const bool alone = verb == "call" || verb == "gzip";
  if (verb == "stream") return work.Hear(Stream(*stub, work.Read("stream.bin"))), 0;
  if (!alone) work.Hear(Embed(*stub, small, 0, 0, false));
  if (verb == "many") return Many(work, *stub), 0;
  if (verb == "idle")
    std::this_thread::sleep_for(std::chrono::seconds(work.number));
  else
    work.Hear(Embed(*stub, request, verb == "deadline" ? work.number : 0, verb == "cancel" ? work.number : 0,
                    verb == "gzip"));
  if (!alone) work.Hear(Embed(*stub, small, 0, 0, false));
  if (verb == "idle") std::this_thread::sleep_for(std::chrono::seconds(1));
  return 0;
}
