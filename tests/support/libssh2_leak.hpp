#pragma once

#include "support/sanitizers.hpp"

// libssh2 1.10 keeps the server's public key, 1.2 KB of OpenSSL's memory, when a session is freed between that key and the end of the key exchange: its
// session_free() asks for LIBSSH2_STATE_NEWKEYS first. Whole stacks tell that from a leak of ours. To be included once in a program.
#ifdef SSHPOOL_TESTED_BY_ADDRESS_SANITIZER
extern "C" const char* __lsan_default_options();       // NOLINT: the sanitizer's names
extern "C" const char* __lsan_default_suppressions();  // NOLINT
extern "C" const char* __lsan_default_options() { return "fast_unwind_on_malloc=0:print_suppressions=0"; }
extern "C" const char* __lsan_default_suppressions() { return "leak:EVP_PKEY_new_raw_public_key\n"; }
#endif
