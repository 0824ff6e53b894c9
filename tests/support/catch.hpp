#pragma once

// Catch2 v2 and v3 under one include.
#if __has_include(<catch2/catch_all.hpp>)
#include <catch2/catch_all.hpp>
namespace Catch {
using Detail::Approx;
}
#else
#include <catch2/catch.hpp>
#endif

#include <iostream>

/// Leaves a test that cannot run here. ctest looks for the line, and CI counts it as a failure.
#define SKIP_TEST(why)                                \
    do {                                              \
        std::cout << "SKIPPED: " << why << std::endl; \
        return;                                       \
    } while (false)
