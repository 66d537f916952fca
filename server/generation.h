// Runs one request, in this process or on a server, and hands its events to whoever asked.
#pragma once

#include <functional>
#include <string>

#include <absl/time/time.h>

#include "engine/base/status.h"
#include "engine/engine_config.h"
#include "ringserve/v1/inference.pb.h"

namespace ringserve {

// False: no more events are wanted, and the request is cancelled.
using OnEvent = std::function<bool(const v1::GenerateEvent&)>;

// Loads the model, generates, and lets go of it. `on_event` is called on another thread than the
// caller's, which waits. `progress` as in Engine::Options.
absl::Status GenerateHere(const EngineConfig& config,
                          const v1::GenerateRequest& request,
                          absl::Time deadline,
                          void (*progress)(double, void*),
                          const OnEvent& on_event);

// `target` is HOST:PORT or unix:PATH, without encryption. The status is the server's.
absl::Status GenerateThere(const std::string& target,
                           const v1::GenerateRequest& request,
                           absl::Time deadline,
                           const OnEvent& on_event);

}  // namespace ringserve
