# What tests and examples are compiled with; nothing of it reaches users of the library.
find_program(CCACHE ccache)
if(CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
    set(CMAKE_CXX_COMPILER_LAUNCHER "${CCACHE}")
endif()
if(NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES)
    set(CMAKE_BUILD_TYPE Debug)
    set(CMAKE_CXX_FLAGS_DEBUG "-O1 -g1")
    # Instrumented code takes g++ 12 nearly twice as long to optimise as not to: a test of the pool 95 s against 53 s.
    if(SSHPOOL_SANITIZE)
        set(CMAKE_CXX_FLAGS_DEBUG "-O0 -g1")
    endif()
endif()

set(CMAKE_EXPORT_COMPILE_COMMANDS ON)  # for clang-tidy

add_library(sshpool_development INTERFACE)
target_link_libraries(sshpool_development INTERFACE sshpool::sshpool)
target_compile_options(sshpool_development INTERFACE -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wnon-virtual-dtor -Wold-style-cast)
# g++ 12 takes the operator delete of Asio's coroutine frames for a stranger to their operator new.
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    target_compile_options(sshpool_development INTERFACE -Wno-mismatched-new-delete)
endif()
if(SSHPOOL_WARNINGS_AS_ERRORS)
    target_compile_options(sshpool_development INTERFACE -Werror)
endif()
if(SSHPOOL_SANITIZE)
    string(REPLACE ";" "," sanitizers "${SSHPOOL_SANITIZE}")
    target_compile_options(sshpool_development INTERFACE -fsanitize=${sanitizers} -fno-sanitize-recover=all -fno-omit-frame-pointer)
    target_link_options(sshpool_development INTERFACE -fsanitize=${sanitizers})
    # With sanitizers g++ 12 sees uninitialised variables in Asio's completion tokens that are none.
    if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
        target_compile_options(sshpool_development INTERFACE -Wno-maybe-uninitialized)
    endif()
    # g++ warns that it cannot follow std::atomic_thread_fence, which Asio uses where the strand already orders everything.
    if(sanitizers MATCHES "thread" AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
        target_compile_options(sshpool_development INTERFACE -Wno-tsan)
    endif()
endif()
