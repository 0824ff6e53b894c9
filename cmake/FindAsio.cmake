# Finds standalone Asio, 1.22.1 or newer: the target `asio::asio`.
# Hint: Asio_ROOT, or Asio_INCLUDE_DIR itself.
find_path(Asio_INCLUDE_DIR asio.hpp PATH_SUFFIXES asio asio/include)
if(Asio_INCLUDE_DIR AND EXISTS "${Asio_INCLUDE_DIR}/asio/version.hpp")
    file(STRINGS "${Asio_INCLUDE_DIR}/asio/version.hpp" Asio_version_line REGEX "^#define ASIO_VERSION [0-9]+")
    if(Asio_version_line MATCHES "ASIO_VERSION ([0-9]+)")
        math(EXPR Asio_major "${CMAKE_MATCH_1} / 100000")
        math(EXPR Asio_minor "${CMAKE_MATCH_1} / 100 % 1000")
        math(EXPR Asio_patch "${CMAKE_MATCH_1} % 100")
        set(Asio_VERSION "${Asio_major}.${Asio_minor}.${Asio_patch}")
    endif()
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(
    Asio
    REQUIRED_VARS Asio_INCLUDE_DIR
    VERSION_VAR Asio_VERSION
    REASON_FAILURE_MESSAGE "standalone Asio is the package libasio-dev on Debian and Ubuntu")

if(Asio_FOUND AND NOT TARGET asio::asio)
    find_package(Threads REQUIRED)
    add_library(asio::asio INTERFACE IMPORTED)
    # Clang with libstdc++ has coroutines that Asio does not detect by itself. And whether Asio finds std::aligned_alloc depends on what was included
    # before it: two translation units may disagree, and one frees with free() what the other got from operator new. So it is said here, for all.
    set_target_properties(
        asio::asio
        PROPERTIES INTERFACE_INCLUDE_DIRECTORIES "${Asio_INCLUDE_DIR}"
                   INTERFACE_COMPILE_DEFINITIONS
                   "ASIO_STANDALONE;$<$<PLATFORM_ID:Linux>:ASIO_HAS_STD_ALIGNED_ALLOC=1>;$<$<COMPILE_LANG_AND_ID:CXX,Clang,AppleClang>:ASIO_HAS_CO_AWAIT;ASIO_HAS_STD_COROUTINE>"
                   INTERFACE_LINK_LIBRARIES Threads::Threads)
endif()
mark_as_advanced(Asio_INCLUDE_DIR)
