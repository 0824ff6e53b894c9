# cmake -DHOW=<way> -DSOURCE=<sshpool> -DWORK=<dir> -DCXX=<compiler> [-DLAUNCHER=<ccache>] -P check_package.cmake
# Uses sshpool the way a project does, builds and runs it, and looks at what it was compiled with. HOW=install prepares what find_package and
# pkg_config use: from a build with sanitizers, warnings and tests on, so that a leak of those would show.
cmake_minimum_required(VERSION 3.20)

function(run)
    execute_process(COMMAND ${ARGV} RESULT_VARIABLE status OUTPUT_VARIABLE output ERROR_VARIABLE output)
    if(NOT status EQUAL 0)
        list(JOIN ARGV " " line)
        message(FATAL_ERROR "${line}\nended with ${status}:\n${output}")
    endif()
    set(output "${output}" PARENT_SCOPE)
endfunction()

set(prefix "${WORK}/prefix")
set(common -G Ninja "-DCMAKE_CXX_COMPILER=${CXX}" "-DCMAKE_CXX_COMPILER_LAUNCHER=${LAUNCHER}")

if(HOW STREQUAL "install")
    file(REMOVE_RECURSE "${WORK}/build" "${WORK}/installed" "${prefix}")
    run(${CMAKE_COMMAND} ${common} -S "${SOURCE}" -B "${WORK}/build" "-DCMAKE_INSTALL_PREFIX=${WORK}/installed" -DSSHPOOL_SANITIZE=address
        -DSSHPOOL_WARNINGS_AS_ERRORS=ON -DSSHPOOL_BUILD_TESTS=ON -DSSHPOOL_BUILD_EXAMPLES=ON)
    run(${CMAKE_COMMAND} --install "${WORK}/build")
    file(RENAME "${WORK}/installed" "${prefix}")  # an installed tree may be moved
    file(GLOB_RECURSE installed RELATIVE "${prefix}" "${prefix}/*")
    foreach(file ${installed})
        if(NOT file MATCHES "^include/sshpool/.*\\.hpp$|^lib.*/cmake/sshpool/[A-Za-z0-9]+\\.cmake$|^lib.*/pkgconfig/sshpool\\.pc$")
            message(FATAL_ERROR "${file} does not belong into an installation")
        endif()
    endforeach()
    file(GLOB_RECURSE wanted RELATIVE "${SOURCE}" "${SOURCE}/include/*.hpp")
    foreach(file ${wanted})
        if(NOT file IN_LIST installed)
            message(FATAL_ERROR "${file} was not installed")
        endif()
    endforeach()
    return()
endif()

set(build "${WORK}/${HOW}")
file(REMOVE_RECURSE "${build}")
set(arguments "-DHOW=${HOW}")
if(HOW STREQUAL "find_package")
    list(APPEND arguments "-DCMAKE_PREFIX_PATH=${prefix}")
elseif(HOW STREQUAL "pkg_config")
    file(GLOB_RECURSE pc "${prefix}/sshpool.pc")
    get_filename_component(pc "${pc}" DIRECTORY)
    set(ENV{PKG_CONFIG_PATH} "${pc}")
else()
    # As a user's own project might have it: none of these may reach the user's targets.
    list(APPEND arguments "-DSSHPOOL_SOURCE=${SOURCE}" "-DFETCHCONTENT_SOURCE_DIR_SSHPOOL=${SOURCE}" "-DSSHPOOL_SANITIZE=address"
         -DSSHPOOL_WARNINGS_AS_ERRORS=ON)
endif()
run(${CMAKE_COMMAND} ${common} -DCMAKE_BUILD_TYPE=None -S "${CMAKE_CURRENT_LIST_DIR}/consumer" -B "${build}" ${arguments})
run(${CMAKE_COMMAND} --build "${build}")
run("${build}/consumer")
message(STATUS "${output}")

file(READ "${build}/compile_commands.json" commands)
if(NOT commands MATCHES "ASIO_STANDALONE")
    message(FATAL_ERROR "ASIO_STANDALONE does not reach the consumer: ${commands}")
endif()
if(commands MATCHES "(-fsanitize[^ ]*|-W[a-z][^ ]*|SSHPOOL_[A-Z_]+|catch2[^ ]*|-include [^ ]*)")
    message(FATAL_ERROR "${CMAKE_MATCH_1} leaks to the consumer: ${commands}")
endif()
