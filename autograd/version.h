/* version.h - the version of the library and of the program, in one place. */
#ifndef AG_VERSION_NUMBER_H
#define AG_VERSION_NUMBER_H

#define AG_VERSION "0.1.0"

#endif /* AG_VERSION_NUMBER_H */
