#pragma once

#include "support/sanitizers.hpp"

// libssh2 1.10 keeps the server's public key, 1.2 KB of OpenSSL's memory, when a session is freed between that key and the end of the key exchange: its
// session_free() asks for LIBSSH2_STATE_NEWKEYS first. What is allocated while such a key is made is no leak of ours; everything else is. A suppression by name
// would need whole stacks, through libraries without frame pointers, at each malloc and free: thirty times the time. To be included once in a program.
#ifdef SSHPOOL_TESTED_BY_ADDRESS_SANITIZER
#include <dlfcn.h>
#include <openssl/evp.h>
#include <sanitizer/lsan_interface.h>

#include <cstddef>

extern "C" EVP_PKEY* EVP_PKEY_new_raw_public_key(int type, ENGINE* engine, const unsigned char* key, std::size_t length) {
    using function = EVP_PKEY*(int, ENGINE*, const unsigned char*, std::size_t);
    static auto* const openssl = reinterpret_cast<function*>(::dlsym(RTLD_NEXT, "EVP_PKEY_new_raw_public_key"));
    const __lsan::ScopedDisabler no_leak;
    return openssl(type, engine, key, length);
}
#endif
