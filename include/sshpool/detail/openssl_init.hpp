#pragma once

#include <openssl/crypto.h>

namespace sshpool::detail {

/// OpenSSL keeps what it has until the process ends, instead of giving it up from an `atexit` handler: a static pool, or credentials, may be older than its
/// first use and so go later, and threads of a pool may still be at work. Nothing happens where the program has used OpenSSL before.
inline const bool openssl_stays = OPENSSL_init_crypto(OPENSSL_INIT_NO_ATEXIT, nullptr) == 1;

}  // namespace sshpool::detail
