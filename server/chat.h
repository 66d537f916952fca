// A conversation on a session: lines in, text out, and commands that begin with a slash.
#pragma once

#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include <absl/base/thread_annotations.h>
#include <absl/synchronization/mutex.h>
#include <google/protobuf/timestamp.pb.h>
#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>

#include "engine/base/status.h"
#include "ringserve/v1/inference.grpc.pb.h"
#include "ringserve/v1/models.grpc.pb.h"
#include "ringserve/v1/sessions.grpc.pb.h"
#include "ringserve/v1/tokenizer.grpc.pb.h"

namespace ringserve {

struct ChatOptions {
  // What every turn asks for; its prompt is replaced.
  v1::GenerateRequest request;
  std::string separator = "\n";  // between an answer and the line after it; without a template
  bool use_template = true;      // the model's chat template, if it has one
  std::string system;            // what the template is told first; "": nothing
  std::string variables;         // of the template (ChatPrompt.variables)
};

// One thread, but for Interrupt.
class Chat {
 public:
  Chat(const std::shared_ptr<grpc::Channel>& channel, ChatOptions options, std::FILE* out);

  // Makes the session. FAILED_PRECONDITION if something is said to a template that the model does
  // not have.
  absl::Status Open();
  // A turn, or a command. Errors are those of the server, and the conversation may go on.
  absl::Status TakeLine(const std::string& line);
  // Closes the sessions that were made here.
  absl::Status Close();

  // After /quit.
  bool is_over() const { return is_over_; }

  // Any thread. Ends the turn in progress, which keeps what was delivered; false if there is none.
  bool Interrupt();

 private:
  struct TurnStart {
    int64_t position = 0;
    size_t num_messages = 0;
  };

  struct Branch {
    std::string session_id;
    int64_t position = 0;
    std::vector<TurnStart> turn_starts{};  // before the turns that are left
    // By template: what was said, and the tokens of the session as far as they are known.
    std::vector<v1::ChatMessage> messages{};
    std::vector<int32_t> held{};
  };

  struct Answer {
    std::string text;
    std::vector<int32_t> token_ids;
  };

  absl::Status Turn(const std::string& line);
  // Sends what the conversation, rendered as a whole, adds to what the session holds; where it does
  // not extend that, the session is rolled back to what both begin with.
  absl::Status TurnByTemplate(const std::string& line);
  absl::StatusOr<std::vector<int32_t>> Render(const std::vector<v1::ChatMessage>& messages);
  absl::Status TakeBackTurn();
  absl::Status StartAgain();
  // Runs a turn that begins at the branch's position, whose new one is noted.
  absl::Status Run(v1::GenerateRequest request, size_t num_messages, Answer& answer);
  absl::Status RollBackTo(int64_t position);
  absl::StatusOr<v1::Session> Create();
  absl::Status Command(const std::string& name, const std::string& argument);
  absl::Status Rollback(const std::string& argument);
  absl::Status Fork();
  absl::Status Switch(const std::string& argument);
  absl::Status Info();
  absl::Status Export(const std::string& file);
  absl::Status Import(const std::string& file);
  // What the server says of the present session, whose position is noted.
  absl::StatusOr<v1::Session> Get();
  void Add(const v1::Session& session);

  Branch& branch() { return branches_[current_]; }

  const std::unique_ptr<v1::Inference::Stub> inference_;
  const std::unique_ptr<v1::Sessions::Stub> sessions_;
  const std::unique_ptr<v1::Tokenizer::Stub> tokenizer_;
  const std::unique_ptr<v1::Models::Stub> models_;
  const ChatOptions options_;
  std::FILE* const out_;
  std::vector<Branch> branches_;
  size_t current_ = 0;
  bool is_over_ = false;
  bool by_template_ = false;
  google::protobuf::Timestamp opened_;  // the template's date, all conversation long

  absl::Mutex mutex_;
  grpc::ClientContext* turn_ ABSL_GUARDED_BY(mutex_) = nullptr;  // in progress
};

}  // namespace ringserve
