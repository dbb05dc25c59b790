// Nothing more than what is forced into every file.
#pragma once
#include "../cuda_on_cpu.h"
