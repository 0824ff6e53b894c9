#pragma once

// Which sanitizer this is compiled with: g++ says so in macros, clang answers __has_feature.

#if defined(__SANITIZE_ADDRESS__)
#define SSHPOOL_TESTED_BY_ADDRESS_SANITIZER
#elif defined(__SANITIZE_THREAD__)
#define SSHPOOL_TESTED_BY_THREAD_SANITIZER
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SSHPOOL_TESTED_BY_ADDRESS_SANITIZER
#elif __has_feature(thread_sanitizer)
#define SSHPOOL_TESTED_BY_THREAD_SANITIZER
#endif
#endif

namespace support {

/// How much slower this build is than a plain one: deadlines of tests are multiplied by it.
#if defined(SSHPOOL_TESTED_BY_ADDRESS_SANITIZER) || defined(SSHPOOL_TESTED_BY_THREAD_SANITIZER)
inline constexpr int slowness = 4;
#else
inline constexpr int slowness = 1;
#endif

}  // namespace support
