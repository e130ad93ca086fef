# Read by llama.cpp's build right after its project() line. llama-cpp-python asks for the library of
# the command-line tools too, which no wheel contains: 57 of 140 steps.
set(LLAMA_BUILD_COMMON OFF)

# gcc 12 miscompiles the code for AMX, which then ends the process (`model_params` in
# lm/engines/llama_build.py); without it the weights are rearranged for AVX-512.
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64" AND NOT MSVC)
  add_compile_options(-U__AMX_INT8__)
endif()
