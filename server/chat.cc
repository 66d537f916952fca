#include "server/chat.h"

#include <charconv>
#include <fstream>
#include <utility>

#include <absl/time/clock.h>
#include <fmt/format.h>
#include <grpcpp/support/sync_stream.h>

#include "server/event_printer.h"
#include "server/status.h"

namespace ringserve {
namespace {

constexpr char kHelp[] =
    "/rollback [POSITION]  takes back the last turn, or all after a position\n"
    "/fork                 goes on in a copy of the conversation\n"
    "/switch N             goes to the Nth conversation, as /info counts them\n"
    "/info                 tells what the server says of the session\n"
    "/export FILE          writes the session to a file\n"
    "/import FILE          goes on with a session from a file\n"
    "/quit                 ends; so does the end of the input\n"
    "Anything else is said to the model; //TEXT says /TEXT. Ctrl-C ends an answer.\n";

absl::StatusOr<int64_t> ParseNumber(const std::string& text) {
  int64_t number = 0;
  const auto parsed = std::from_chars(text.data(), text.data() + text.size(), number);
  if (parsed.ec != std::errc() || parsed.ptr != text.data() + text.size()) {
    return absl::InvalidArgumentError(fmt::format("\"{}\" is no number", text));
  }
  return number;
}

}  // namespace

Chat::Chat(const std::shared_ptr<grpc::Channel>& channel, ChatOptions options, std::FILE* out)
    : inference_(v1::Inference::NewStub(channel)),
      sessions_(v1::Sessions::NewStub(channel)),
      tokenizer_(v1::Tokenizer::NewStub(channel)),
      models_(v1::Models::NewStub(channel)),
      options_(std::move(options)),
      out_(out) {}

absl::Status Chat::Open() {
  if (options_.use_template) {
    grpc::ClientContext context;
    v1::GetModelRequest request;
    request.set_model(options_.request.model());
    v1::Model model;
    RETURN_IF_ERROR(FromGrpcStatus(models_->Get(&context, request, &model)));
    by_template_ = model.has_chat_template();
  }
  if (!by_template_ && !(options_.system.empty() && options_.variables.empty())) {
    return absl::FailedPreconditionError(
        "--system and --variables are for a chat template, and none is used");
  }
  opened_.set_seconds(absl::ToUnixSeconds(absl::Now()));
  ASSIGN_OR_RETURN(const v1::Session session, Create());
  Add(session);
  if (!options_.system.empty()) {
    v1::ChatMessage& message = branch().messages.emplace_back();
    message.set_role("system");
    message.set_content(options_.system);
  }
  return absl::OkStatus();
}

absl::StatusOr<v1::Session> Chat::Create() {
  grpc::ClientContext context;
  v1::CreateSessionRequest request;
  request.set_model(options_.request.model());
  v1::Session session;
  RETURN_IF_ERROR(FromGrpcStatus(sessions_->Create(&context, request, &session)));
  return session;
}

void Chat::Add(const v1::Session& session) {
  branches_.push_back({.session_id = session.id(), .position = session.position()});
  current_ = branches_.size() - 1;
}

absl::Status Chat::Close() {
  absl::Status status;
  for (const Branch& branch : branches_) {
    grpc::ClientContext context;
    v1::CloseSessionRequest request;
    request.set_model(options_.request.model());
    request.set_id(branch.session_id);
    v1::Session session;
    status.Update(FromGrpcStatus(sessions_->Close(&context, request, &session)));
  }
  branches_.clear();
  return status;
}

absl::Status Chat::TakeLine(const std::string& line) {
  if (line.empty()) {
    return absl::OkStatus();
  }
  if (line[0] != '/') {
    return Turn(line);
  }
  if (line.size() > 1 && line[1] == '/') {
    return Turn(line.substr(1));
  }
  const size_t space = line.find(' ');
  return Command(line.substr(1, space == std::string::npos ? space : space - 1),
                 space == std::string::npos ? "" : line.substr(space + 1));
}

absl::Status Chat::Command(const std::string& name, const std::string& argument) {
  if (name == "rollback") {
    return Rollback(argument);
  }
  if (name == "fork") {
    return Fork();
  }
  if (name == "switch") {
    return Switch(argument);
  }
  if (name == "info") {
    return Info();
  }
  if (name == "export") {
    return Export(argument);
  }
  if (name == "import") {
    return Import(argument);
  }
  if (name == "quit") {
    is_over_ = true;
    return absl::OkStatus();
  }
  fmt::print(out_, "{}", kHelp);
  return name == "help" ? absl::OkStatus()
                        : absl::InvalidArgumentError(fmt::format("/{}: no such command", name));
}

absl::Status Chat::Turn(const std::string& line) {
  if (by_template_) {
    return TurnByTemplate(line);
  }
  v1::GenerateRequest request = options_.request;
  const bool is_first = branch().position == 0;
  request.set_text(is_first ? line : options_.separator + line);
  if (!is_first) {
    request.mutable_tokenize()->set_add_special_tokens(false);  // the text goes on
  }
  Answer answer;
  return Run(std::move(request), /*num_messages=*/0, answer);
}

absl::Status Chat::Run(v1::GenerateRequest request, size_t num_messages, Answer& answer) {
  request.mutable_session()->set_id(branch().session_id);
  request.mutable_session()->set_expected_position(branch().position);
  request.mutable_session()->set_on_cancel(v1::ON_CANCEL_KEEP_DELIVERED);
  grpc::ClientContext context;
  {
    absl::MutexLock lock(&mutex_);
    turn_ = &context;
  }
  EventPrinter printer(EventPrinter::Style::kText, out_);
  const auto reader = inference_->Generate(&context, request);
  v1::GenerateEvent event;
  v1::Finished finished;
  while (reader->Read(&event)) {
    if (!printer.Print(event)) {
      context.TryCancel();
    }
    answer.text += event.delta().text();
    const auto& ids = event.delta().token_ids();
    answer.token_ids.insert(answer.token_ids.end(), ids.begin(), ids.end());
    if (event.has_finished()) {
      finished = event.finished();
    }
  }
  const grpc::Status status = reader->Finish();
  {
    absl::MutexLock lock(&mutex_);
    turn_ = nullptr;
  }
  printer.Finish(/*is_terminal=*/true);
  branch().turn_starts.push_back({branch().position, num_messages});
  if (status.ok()) {
    branch().position = finished.session_position();
    return absl::OkStatus();
  }
  RETURN_IF_ERROR(Get().status());  // what was kept
  if (branch().position == branch().turn_starts.back().position) {
    branch().turn_starts.pop_back();
  }
  return status.error_code() == grpc::StatusCode::CANCELLED ? absl::OkStatus()
                                                            : FromGrpcStatus(status);
}

bool Chat::Interrupt() {
  absl::MutexLock lock(&mutex_);
  if (turn_ == nullptr) {
    return false;
  }
  turn_->TryCancel();
  return true;
}

absl::StatusOr<v1::Session> Chat::Get() {
  // The turn that was cancelled ends within a step; until then the session is busy.
  for (;;) {
    grpc::ClientContext context;
    v1::GetSessionRequest request;
    request.set_model(options_.request.model());
    request.set_id(branch().session_id);
    v1::Session session;
    RETURN_IF_ERROR(FromGrpcStatus(sessions_->Get(&context, request, &session)));
    if (!session.busy()) {
      branch().position = session.position();
      return session;
    }
  }
}

absl::Status Chat::Rollback(const std::string& argument) {
  if (by_template_ && !argument.empty()) {
    return absl::InvalidArgumentError("/rollback: by template turns are taken back one by one");
  }
  if (by_template_ && !branch().turn_starts.empty()) {
    return TakeBackTurn();
  }
  int64_t position = 0;
  if (!argument.empty()) {
    ASSIGN_OR_RETURN(position, ParseNumber(argument));
  } else if (branch().turn_starts.empty()) {
    return absl::InvalidArgumentError("/rollback: there is no turn to take back");
  } else {
    position = branch().turn_starts.back().position;
  }
  RETURN_IF_ERROR(RollBackTo(position));
  while (!branch().turn_starts.empty() && branch().turn_starts.back().position >= position) {
    branch().turn_starts.pop_back();
  }
  fmt::print(out_, "the text ends at {}\n", position);
  return absl::OkStatus();
}

absl::Status Chat::RollBackTo(int64_t position) {
  grpc::ClientContext context;
  v1::RollbackSessionRequest request;
  request.set_model(options_.request.model());
  request.set_id(branch().session_id);
  request.set_position(position);
  v1::Session session;
  RETURN_IF_ERROR(FromGrpcStatus(sessions_->Rollback(&context, request, &session)));
  branch().position = session.position();
  return absl::OkStatus();
}

absl::Status Chat::Fork() {
  grpc::ClientContext context;
  v1::ForkSessionRequest request;
  request.set_model(options_.request.model());
  request.set_id(branch().session_id);
  v1::Session session;
  RETURN_IF_ERROR(FromGrpcStatus(sessions_->Fork(&context, request, &session)));
  Branch copy = branch();
  Add(session);
  copy.session_id = branch().session_id;
  copy.position = branch().position;
  branch() = std::move(copy);
  fmt::print(out_, "conversation {} of {}\n", current_ + 1, branches_.size());
  return absl::OkStatus();
}

absl::Status Chat::Switch(const std::string& argument) {
  ASSIGN_OR_RETURN(const int64_t number, ParseNumber(argument));
  if (number < 1 || number > static_cast<int64_t>(branches_.size())) {
    return absl::InvalidArgumentError(
        fmt::format("/switch: {} is not in [1, {}]", number, branches_.size()));
  }
  current_ = static_cast<size_t>(number - 1);
  return absl::OkStatus();
}

absl::Status Chat::Info() {
  ASSIGN_OR_RETURN(const v1::Session session, Get());
  fmt::print(out_,
             "conversation {} of {}: session {}, {} tokens, rollback to {} and later, {} blocks\n"
             "{} turns, {} tokens read, {} made, {} taken from memory, {} read again\n",
             current_ + 1,
             branches_.size(),
             session.id(),
             session.position(),
             session.rollback_floor(),
             session.num_blocks(),
             session.usage().turns(),
             session.usage().prompt_tokens(),
             session.usage().completion_tokens(),
             session.usage().cached_tokens(),
             session.usage().reprefilled_tokens());
  return absl::OkStatus();
}

absl::Status Chat::Export(const std::string& file) {
  if (file.empty()) {
    return absl::InvalidArgumentError("/export: give a file");
  }
  grpc::ClientContext context;
  v1::ExportSessionRequest request;
  request.set_model(options_.request.model());
  request.set_id(branch().session_id);
  const auto reader = sessions_->Export(&context, request);
  std::ofstream out;
  v1::SnapshotChunk chunk;
  int64_t num_bytes = 0;
  while (reader->Read(&chunk)) {
    if (!out.is_open()) {  // no file if there is nothing to write
      out.open(file, std::ios::binary | std::ios::trunc);
    }
    out.write(chunk.data().data(), static_cast<std::streamsize>(chunk.data().size()));
    num_bytes += static_cast<int64_t>(chunk.data().size());
  }
  RETURN_IF_ERROR(FromGrpcStatus(reader->Finish()));
  out.close();
  if (!out) {
    return absl::InternalError(fmt::format("{}: cannot be written", file));
  }
  fmt::print(out_, "{} bytes\n", num_bytes);
  return absl::OkStatus();
}

absl::Status Chat::Import(const std::string& file) {
  if (by_template_) {
    return absl::InvalidArgumentError(
        "/import: a file does not say which messages it holds; use --no-template");
  }
  std::ifstream in(file, std::ios::binary);
  if (!in) {
    return absl::NotFoundError(fmt::format("{}: cannot be read", file));
  }
  grpc::ClientContext context;
  v1::Session session;
  const auto writer = sessions_->Import(&context, &session);
  v1::ImportSessionRequest request;
  request.set_model(options_.request.model());
  std::string& data = *request.mutable_data();
  bool more = true;
  while (more) {
    data.resize(1 << 20);
    in.read(data.data(), static_cast<std::streamsize>(data.size()));
    data.resize(static_cast<size_t>(in.gcount()));
    more = !data.empty() && writer->Write(request);
    request.clear_model();
  }
  writer->WritesDone();  // if it fails, Finish says why
  RETURN_IF_ERROR(FromGrpcStatus(writer->Finish()));
  Add(session);
  fmt::print(out_, "conversation {}: {} tokens\n", current_ + 1, session.position());
  return absl::OkStatus();
}

}  // namespace ringserve
