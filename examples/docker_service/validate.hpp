#pragma once

#include "requests.hpp"

#include <string_view>

namespace docker {

// Each throws `std::invalid_argument` that names what was wrong and quotes no secret. What passes is harmless as a word of docker's command line: it
// is no option, and none of docker's own syntax (`name:path`, `key=value`, comma-separated lists) can be smuggled in.

void check_container_name(std::string_view name);
void check_volume_name(std::string_view name);
void check_image(std::string_view image);
void check(const jupyter_setup& wish);
void check(const create_request& wish);
void check(const delete_request& wish);

}  // namespace docker
