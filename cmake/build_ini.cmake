# csrc/build.ini, which build_flags.py reads for setup.py and the C++ tests: what is compiled, and how.

file(READ "${CMAKE_CURRENT_LIST_DIR}/../csrc/build.ini" _build_ini)
string(REGEX REPLACE "(^|\n)#[^\n]*" "\\1" _build_ini "${_build_ini}")
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS "${CMAKE_CURRENT_LIST_DIR}/../csrc/build.ini"
                                                              "${CMAKE_CURRENT_LIST_DIR}/../csrc/isa/builds.inc")

# The words of a section; none where there is no such section.
function(words_of section result)
  set(words "")
  if(_build_ini MATCHES "\\[${section}\\]([^[]*)")
    string(STRIP "${CMAKE_MATCH_1}" words)
    string(REGEX REPLACE "[ \n]+" ";" words "${words}")
  endif()
  set(${result} "${words}" PARENT_SCOPE)
endfunction()

# The builds of the kernels, as csrc/isa/builds.inc lists them.
function(builds_of_kernels result)
  file(STRINGS "${CMAKE_CURRENT_FUNCTION_LIST_DIR}/../csrc/isa/builds.inc" rows REGEX "^BUILD\\(")
  set(builds "")
  foreach(row IN LISTS rows)
    string(REGEX REPLACE "^BUILD\\(([a-z0-9_]+),.*" "\\1" build "${row}")
    list(APPEND builds ${build})
  endforeach()
  list(REMOVE_DUPLICATES builds)  # a build may have two rows
  set(${result} "${builds}" PARENT_SCOPE)
endfunction()

# Gives csrc/isa/BUILD.cpp its flags. One whose flags the compiler doesn't know gets none of them, and is empty then.
function(set_kernel_flags build machine)
  words_of("flags kernels" flags)
  # All of a build is used, by its table.
  list(APPEND flags -fno-function-sections -fno-data-sections)
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    words_of("flags kernels by gcc" of_compiler)
    list(APPEND flags ${of_compiler})
  endif()
  words_of("flags ${machine} ${build}" own)
  if(own)
    list(JOIN own " " CMAKE_REQUIRED_FLAGS)
    check_cxx_source_compiles("int main() { return 0; }" SQUEEZEBERT_COMPILES_${build})
    if(SQUEEZEBERT_COMPILES_${build})
      list(APPEND flags ${own})
    endif()
  endif()
  set_source_files_properties("csrc/isa/${build}.cpp" PROPERTIES COMPILE_OPTIONS "${flags}")
endfunction()
