/* The list of kernels, by name and by file; the order is that of fastopt_kernel_at(). */
#ifndef KERNELS
#define KERNELS(_) \
    _(sgd) _(momentum) _(nesterov) _(adagrad) _(adadelta) \
    _(rmsprop) _(rmsprop_momentum) _(rmsprop_centered) _(rmsprop_centered_momentum) _(adam) \
    _(amsgrad) _(adamax) _(nadam) _(adabelief) _(yogi) _(ademamix) _(adan) \
    _(madgrad) _(asgd) _(rprop) _(lion) _(adopt) _(laprop) _(qhadam) _(sophiag) _(ftrl) _(mars) _(prodigy) _(dadapt_adam) \
    _(cautious_adam) _(cautious_lion) _(cautious_momentum) _(cautious_nadam) _(cautious_nesterov) \
    _(schedule_free_adam) _(schedule_free_sgd) _(blend)
#endif

#include "sgd.h"
#include "momentum.h"
#include "nesterov.h"
#include "adagrad.h"
#include "adadelta.h"
#include "rmsprop.h"
#include "rmsprop_momentum.h"
#include "rmsprop_centered.h"
#include "rmsprop_centered_momentum.h"
#include "adam.h"
#include "amsgrad.h"
#include "adamax.h"
#include "nadam.h"
#include "adabelief.h"
#include "yogi.h"
#include "adopt.h"
#include "laprop.h"
#include "qhadam.h"
#include "asgd.h"
#include "rprop.h"
#include "lion.h"
#include "adan.h"
#include "ademamix.h"
#include "madgrad.h"
#include "sophiag.h"
#include "ftrl.h"
#include "schedule_free_adam.h"
#include "schedule_free_sgd.h"
#include "mars.h"
#include "prodigy.h"
#include "dadapt_adam.h"
#include "cautious_adam.h"
#include "cautious_lion.h"
#include "cautious_momentum.h"
#include "cautious_nadam.h"
#include "cautious_nesterov.h"
#include "blend.h"
