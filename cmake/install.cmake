include(CMakePackageConfigHelpers)
set(package_dir "${CMAKE_INSTALL_LIBDIR}/cmake/sshpool")
set(generated_dir "${PROJECT_BINARY_DIR}/package")

install(DIRECTORY "${PROJECT_SOURCE_DIR}/include/sshpool" DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}" FILES_MATCHING PATTERN "*.hpp")
install(TARGETS sshpool EXPORT sshpoolTargets)
install(EXPORT sshpoolTargets NAMESPACE sshpool:: DESTINATION "${package_dir}")

configure_package_config_file("${PROJECT_SOURCE_DIR}/cmake/sshpoolConfig.cmake.in" "${generated_dir}/sshpoolConfig.cmake" INSTALL_DESTINATION "${package_dir}")
write_basic_package_version_file("${generated_dir}/sshpoolConfigVersion.cmake" COMPATIBILITY SameMinorVersion ARCH_INDEPENDENT)
install(FILES "${generated_dir}/sshpoolConfig.cmake" "${generated_dir}/sshpoolConfigVersion.cmake" "${PROJECT_SOURCE_DIR}/cmake/FindAsio.cmake"
              "${PROJECT_SOURCE_DIR}/cmake/FindLibssh2.cmake" DESTINATION "${package_dir}")

# Relative to the .pc file, so that an installed tree may be moved, unless the directories are absolute.
if(IS_ABSOLUTE "${CMAKE_INSTALL_INCLUDEDIR}" OR IS_ABSOLUTE "${CMAKE_INSTALL_LIBDIR}")
    set(SSHPOOL_PC_PREFIX "${CMAKE_INSTALL_PREFIX}")
    set(SSHPOOL_PC_INCLUDEDIR "${CMAKE_INSTALL_FULL_INCLUDEDIR}")
else()
    file(RELATIVE_PATH up "/${CMAKE_INSTALL_LIBDIR}/pkgconfig" "/")
    string(REGEX REPLACE "/$" "" up "${up}")
    set(SSHPOOL_PC_PREFIX "\${pcfiledir}/${up}")
    set(SSHPOOL_PC_INCLUDEDIR "\${prefix}/${CMAKE_INSTALL_INCLUDEDIR}")
endif()
configure_file("${PROJECT_SOURCE_DIR}/cmake/sshpool.pc.in" "${generated_dir}/sshpool.pc" @ONLY)
install(FILES "${generated_dir}/sshpool.pc" DESTINATION "${CMAKE_INSTALL_LIBDIR}/pkgconfig")
