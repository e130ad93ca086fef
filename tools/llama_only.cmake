# Read by llama.cpp's build right after its project() line. llama-cpp-python asks for the library of
# the command-line tools too, which no wheel contains: 57 of 140 steps.
set(LLAMA_BUILD_COMMON OFF)
