"""What the compiled extension says of how it was built; mmengine and mmdet print it with the environment."""


def get_compiler_version() -> str:
    """The compiler of the operators: there is none."""
    return "none (vladapt's operators over torch and torchvision)"


def get_compiling_cuda_version() -> str:
    """The CUDA the operators were compiled against; they run wherever torch runs."""
    return "not available"
