# find_package(moonbus): moonbus::moonbus for moonbus.h, and moonbus::lua for moonbus_lua.h, which
# needs LuaJIT's headers: COMPONENTS lua makes their lack an error.
include("${CMAKE_CURRENT_LIST_DIR}/moonbusTargets.cmake")
find_package(PkgConfig QUIET)
if(PkgConfig_FOUND)
  pkg_check_modules(moonbus_LUAJIT QUIET IMPORTED_TARGET luajit)
endif()
set(moonbus_lua_FOUND "${moonbus_LUAJIT_FOUND}")
if(moonbus_lua_FOUND AND NOT TARGET moonbus::lua)
  add_library(moonbus::lua INTERFACE IMPORTED)
  set_target_properties(moonbus::lua PROPERTIES INTERFACE_LINK_LIBRARIES
                                                "moonbus::moonbus;PkgConfig::moonbus_LUAJIT")
endif()
foreach(component ${moonbus_FIND_COMPONENTS})
  if(moonbus_FIND_REQUIRED_${component} AND NOT moonbus_${component}_FOUND)
    set(moonbus_FOUND FALSE)
    set(moonbus_NOT_FOUND_MESSAGE
        "no component ${component}; there is lua, where pkg-config finds LuaJIT's luajit")
  endif()
endforeach()
