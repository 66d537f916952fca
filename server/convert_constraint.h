// Constraints of the wire to those of the engine.
#pragma once

#include <memory>

#include "engine/base/status.h"
#include "engine/constraint/constraint.h"
#include "ringserve/v1/inference.pb.h"
#include "server/served_model.h"

namespace ringserve {

// Compiles it, or finds it compiled. INVALID_ARGUMENT names field and place; UNIMPLEMENTED: the
// model's tokenizer can serve none.
absl::StatusOr<std::shared_ptr<const Constraint>> ConvertConstraint(const v1::Constraint& in,
                                                                    const ServedModel& model);

}  // namespace ringserve
